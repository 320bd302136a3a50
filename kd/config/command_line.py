"""The command line before Hydra acts on it: what is refused, and how many runs a sweep holds.

Hydra's own keys can name code to run and folders to write in; kd leaves open those that choose how
to run. Like ``kd.config`` imported before anything heavy.
"""

import argparse
import decimal
import math
import os
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)

from kd.errors import UserError, shown
from kd.files import CONF

MANY = 1_000  # runs of a sweep from which on it is said beforehand how many they are
MOST = 100_000  # a sweep keeps 0.1 MB of every run's configuration
DEEPEST = 20  # brackets within brackets; the parser recurses
# Measured on 2 cores: a run's configuration is composed and checked in 0.05 s; a student takes
# 0.05 s an epoch in a group and twice that in a small one.
PREPARED, TRAINED = 0.05, (0.05, 0.1)

PLACED = "output_dir=FOLDER and study=NAME say where runs lie"
FROM_CONF = "choices come from conf/; put yours there, as conf/experiment/NAME.yaml"
FLAGS = {  # of Hydra's, that are refused
    "config_path": FROM_CONF,
    "config_name": FROM_CONF,
    "config_dir": FROM_CONF,
    "experimental_rerun": "would run whatever the file holds; give the run's command again",
}
KEYS = {  # of Hydra's, with all below them
    "hydra.run": PLACED,
    "hydra.sweep": PLACED,
    "hydra.output_subdir": PLACED,
    "hydra.job.chdir": PLACED,
    "hydra.searchpath": FROM_CONF,
}
OPEN = ("hydra.launcher.", "hydra.sweeper.", "hydra.mode", "hydra.verbose")
VALUES = {  # what Hydra checks with an assertion, or an unhelpful message
    "hydra.mode": ("RUN or MULTIRUN", lambda v: v in ("RUN", "MULTIRUN")),
    "hydra.verbose": (
        "true, false or the names of loggers",
        lambda v: isinstance(v, bool | str) or (isinstance(v, list) and v),
    ),
    "hydra.sweeper.max_batch_size": (
        "null or a whole number from 1 up",
        lambda v: v is None or (type(v) is int and v > 0),
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help and --hydra-help")


def _parser() -> argparse.ArgumentParser:
    """Hydra's flags; their meaning stays with Hydra, which reads them again."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    modes.add_argument("--run", "-r", action="store_true")
    modes.add_argument("--multirun", "-m", action="store_true")
    modes.add_argument("--shell-completion", "-sc", action="store_true")
    infos = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    modes.add_argument("--info", "-i", nargs="?", const="all", choices=infos)
    for flag, short in zip(FLAGS, ("-cp", "-cn", "-cd", None), strict=True):
        parser.add_argument(*filter(None, ("--" + flag.replace("_", "-"), short)))
    parser.add_argument("words", nargs="*")
    return parser


def quote_path(word: str) -> str:
    """Quote ``outputs/main/teacher/seed=0/model.ckpt`` or ``größe``: Hydra reads no bare ``=``.

    >>> quote_path("teacher.checkpoint=runs/seed=0")
    'teacher.checkpoint="runs/seed=0"'
    """
    key, _, value = word.partition("=")
    odd = "=" in value or re.search(r"[^ -~]", value)
    plain = odd and not re.search(r"['\"\\\[({$]", value)
    one_path = "," not in value or os.path.exists(value)
    return f'{key}="{value}"' if plain and one_path else word


def check(arguments: list[str]) -> list[str]:
    """The same arguments, flags first, as Hydra wants them; all checked that can be by itself.

    Says how many runs a large sweep holds.

    Raises:
        UserError: a flag or a word is not available here, or a sweep has no end.
    """
    arguments = [quote_path(argument) for argument in arguments]
    given = _parser().parse_intermixed_args(arguments)
    for flag, why in FLAGS.items():
        if getattr(given, flag) is not None:
            raise UserError(f"--{flag.replace('_', '-')}: not available here: {why}")
    if given.resolve and given.cfg not in ("job", "all") and not given.help:
        raise UserError("--resolve: goes with --cfg job or --cfg all")
    if given.shell_completion:
        # Only the shell itself asks, and says by COMP_LINE what is to be completed.
        known = "(install|uninstall|query)" if "COMP_LINE" in os.environ else "(install|uninstall)"
        if not re.fullmatch(f"{known}=(bash|fish|zsh)", " ".join(given.words)):
            raise UserError("--shell-completion: goes with install=SHELL: bash, fish or zsh")
    else:
        overrides = [_read(word) for word in given.words]
        for override in overrides:
            _check_keys(override)
            _check_choices(override)
        asked = [o.value() for o in overrides if o.key_or_group == "hydra.mode"]
        if given.multirun or "MULTIRUN" in map(str, asked):
            _check_sweep(overrides)
    words, flags = list(given.words), []
    for argument in arguments:
        if words and argument == words[0]:
            del words[0]
        else:
            flags.append(argument)
    return flags + given.words


def _read(word: str) -> Override:
    key = shown(word.partition("=")[0])
    depth = deepest = 0
    for character in word:
        depth += (character in "[{(") - (character in ")}]")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise UserError(f"{key}: brackets within brackets, {deepest} deep, cannot be read")
    if not key:
        raise UserError(f"{shown(word)!r}: is no KEY=VALUE")
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except ValueError as error:  # Python's limit of a number's digits
        raise UserError(f"{shown(word)}: cannot be read: the number is too long") from error
    return override


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The keys that a word gives, those of a value ``{a: …}`` spelt out, each with its value."""
    if isinstance(value, ChoiceSweep):
        value = value.list
    yield key, value
    inner = value.items() if isinstance(value, dict) else ()
    for name, below in inner:
        yield from _leaves(f"{key}.{_plain(name)}", below)
    for below in value if isinstance(value, list) else ():
        if isinstance(below, dict | list):
            yield from _leaves(key, below)


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def _check_keys(override: Override) -> None:
    """Refuse what would have Hydra write elsewhere, or run code by its name."""
    if override.package is not None:
        raise UserError(
            f"{override.key_or_group}@{override.package}: a choice has its place; leave out the "
            f"@{override.package}"
        )
    root = override.key_or_group
    if root.startswith("hydra/") and not override.is_delete():
        return  # one of the choices that are installed: see _check_choices
    if not re.match(r"hydra\b", root):
        return
    told = shown(root)
    for key, value in _leaves(root, override.value()):
        for refused, why in KEYS.items():
            if f"{key}.".startswith(f"{refused}."):
                raise UserError(f"{key}: not to be set here: {why}")
        if re.search(r"(^|\.)_\w+_(\.|$)", key):
            raise UserError(
                f"{key}: would run code by its name; choose one that is installed, as in "
                "hydra/launcher=basic"
            )
        if key.startswith("hydra.sweeper.params."):
            raise UserError(f"{key}: give the values by themselves, as in -m seed=0,1")
        if key in VALUES and not VALUES[key][1](value):
            raise UserError(f"{key}={shown(value)}: must be {VALUES[key][0]}")
        if isinstance(value, str) and "${" in value:  # might come to hold _target_
            raise UserError(f"{key}={shown(value)}: takes a plain value, without ${{…}}")
    if override.is_delete() or not root.startswith(OPEN) or root == "hydra.sweeper.params":
        keys = ", ".join(f"{key}…" if key.endswith(".") else key for key in OPEN)
        raise UserError(f"{told}: not to be set here; of Hydra's own keys these are: {keys}")


def _check_choices(override: Override) -> None:
    """Refuse a choice that is a path out of ``conf``, and several of a group that takes one."""
    group = override.key_or_group
    if not _is_group(group) or override.is_delete():
        return
    value = override.value()
    several = value if isinstance(value, list) else []
    if several and group != "experiment":
        names = ",".join(map(shown, several))
        raise UserError(f"{group}=[{names}]: takes one choice; to sweep: -m {group}={names}")
    for choice in value.list if isinstance(value, ChoiceSweep) else several or [value]:
        choice = _plain(choice)
        if isinstance(choice, str) and not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", choice):
            raise UserError(
                f"{group}={shown(choice)}: no such choice; it is the name of a file in conf/{group}"
            )
    if group.startswith("hydra/") and not isinstance(value, str):
        raise UserError(f"{shown(override.input_line)}: takes the name of one choice")


def _is_group(key: str) -> bool:
    return "/" in key or (CONF / key).is_dir()


def _check_sweep(overrides: list[Override]) -> None:
    """Count the runs without listing them; say it if they are many."""
    lengths = {override.get_key_element(): _length(override) for override in overrides}
    runs = math.prod(lengths.values())
    if runs > MOST:
        number = str(runs) if runs < 10**9 else "billions of"
        raise UserError(f"{number} runs: more than {MOST} in one sweep; give fewer values")
    if runs > MANY:
        least, most = (_span(runs * seconds) for seconds in TRAINED)
        print(
            f"{runs} runs: about {_span(runs * PREPARED)} until the first begins, then {least} to "
            f"{most} for every epoch of a student on 2 cores; Ctrl-C stops",
            flush=True,
        )


def _length(override: Override) -> int:
    """How many values a word sweeps over."""
    value, word = override.value(), shown(override.input_line)
    if not override.is_sweep_override():
        return 1
    if isinstance(value, IntervalSweep):
        raise UserError(f"{word}: has no end; range(START,STOP,STEP) sweeps over an interval")
    if isinstance(value, Glob):
        folder = CONF / override.key_or_group
        if not folder.is_dir():
            raise UserError(f"{word}: only choices of a group can be matched, as in kd=glob(*)")
        length = len(value.filter([path.stem for path in folder.glob("*.yaml")]))
    elif isinstance(value, RangeSweep):
        length = _range_length(value, word)
    else:
        length = len(value.list)
    if not length:
        raise UserError(f"{word}: holds no value")
    return length


def _range_length(value: RangeSweep, word: str) -> int:
    numbers = (value.start, value.stop, value.step)
    if not value.step or not all(-math.inf < number < math.inf for number in numbers):
        raise UserError(f"{word}: never ends; give finite numbers, and a step that is not 0")
    with decimal.localcontext(decimal.Context(Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)):
        start, stop, step = map(decimal.Decimal, numbers)
        return max(0, math.ceil((stop - start) / step))


def _span(seconds: float) -> str:
    """Seconds in words, as one says it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
