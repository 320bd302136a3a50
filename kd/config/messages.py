"""What to say of an error: a line for a user's mistake, nothing for ours.

Like ``kd.config`` imported before anything heavy.
"""

import re

from hydra.errors import MissingConfigException, OverrideParseException

from kd.config.schema import TARGETS, Config, flatten
from kd.config.validation import unknown_key
from kd.errors import NO_ROOM, OutOfMemory, UserError, chain, shown
from kd.files import COMMAND, choices
from kd.methods import METHODS
from kd.models import MODELS

# What torch says of a file it cannot write, and of memory it cannot have, be it while it is loaded.
UNWRITTEN = re.compile(r"PytorchStreamWriter failed|unexpected pos \d|No space left")
UNALLOCATED = re.compile(
    r"can'?(no)?t allocate memory|can't start new thread|not enough memory|out of memory|"
    r"failed to map segment|error return without exception set",
    re.IGNORECASE,
)
MAY_LACK_MEMORY = (RuntimeError, ImportError, SystemError, OSError)


def explain(error: BaseException) -> str | None:
    """Put a user's mistake in one line; None for an error of ours, which deserves a traceback."""
    text = _explain(error)
    return None if text is None else " ".join(text.split())


def _explain(error: BaseException) -> str | None:
    if is_disk_full(error):
        # Of a copy the second name is the one that found no room.
        failed = [link for link in chain(error) if isinstance(link, OSError)]
        files: list[str | None] = [link.filename2 or link.filename for link in failed]
        file = next(filter(None, files), "the output's")
        return (
            f"no room left on the device ({file}); free some and give the same command again: "
            "what is complete is kept"
        )
    for link in chain(error):
        if isinstance(link, UserError):
            return str(link)
    if is_out_of_memory(error):
        return (
            "not enough memory: make data.batch_size or model.hidden smaller; in a sweep "
            "trainer.group_mb too"
        )
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, of a callback
        return str(error)
    if isinstance(error, RecursionError):
        return "a value holds too many others within each other, or itself; give it plainly"
    if re.match(r"Config group override .*must be a string", str(error)):  # Hydra's, a ValueError
        return "a group takes the name of one of its choices, as in data=mnist; see --help"
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return _explain_hydra(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{shown(error.filename or 'the output')}: {error.strerror}"
    return None


def is_disk_full(error: BaseException) -> bool:
    """Whether an error came of a device, or a quota, that has no room left."""
    return any(
        (isinstance(link, OSError) and link.errno in NO_ROOM)
        or (isinstance(link, RuntimeError) and UNWRITTEN.search(str(link)))
        for link in chain(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error came of memory that was not to be had."""
    return any(
        isinstance(link, MemoryError | OutOfMemory)
        or type(link).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
        or (isinstance(link, MAY_LACK_MEMORY) and UNALLOCATED.search(str(link)))
        for link in chain(error)
    )


def _explain_hydra(error: BaseException) -> str:
    """Put Hydra's message in one line, without advice that does not hold here (``+key=``)."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        word = shown(error.override)
        return f"{word}: cannot be read as KEY=VALUE; quote odd characters: 'KEY=\"a=b\"'"
    if isinstance(error, MissingConfigException):
        missing = error.missing_cfg_file or ""
        cut = missing.rpartition if missing.startswith("hydra/") else missing.partition
        group, _, option = cut("/")
        known = choices(group) or error.options or []
        return f"{group}={option}: no such choice; choose from {', '.join(known)}"
    if found := re.match(r"Could not override '([^']*)'", text):
        if found[1] == "experiment":
            return "experiment: give it with a plus, as in +experiment=talk"
        if found[1].startswith("hydra."):
            return f"{found[1]}: no such key; {COMMAND} --cfg hydra shows Hydra's own"
        group, _, rest = found[1].partition(".")
        if group in TARGETS and rest:
            name = rest.partition(".")[0]
            return (
                f"{found[1]}: no such key of the chosen {group}; {group}={name} chooses {name}, "
                f"and +{found[1]} adds an argument"
            )
        configs = [Config(kd=method()) for method in METHODS.values()]
        configs += [Config(model=network()) for network in MODELS.values()]
        return unknown_key(found[1], sorted({key for one in configs for key in flatten(one)}))
    if found := re.match(r"Ambiguous value for argument '([^']*)'", text):
        return f"{found[1]}: several values; add -m to sweep over them, or write [a,b] for a list"
    if found := re.match(r"Sweep parameters '(.*)' requires --multirun", text):
        return f"{found[1]}: several values; add -m to sweep over them"
    if found := re.match(r"Error merging override (.*)", text):
        return f"{shown(found[1])}: is of a type that this key does not take"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
