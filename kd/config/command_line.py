"""The command line before Hydra acts on it: what is refused, and how many runs a sweep holds.

Hydra's own keys can name code to run and folders to write in; kd leaves open those that choose how
to run. Like ``kd.config`` imported before anything heavy.
"""

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import accumulate
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser import types
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from kd.errors import UserError, Value, shown
from kd.files import CONF
from kd.methods import METHODS, find_method
from kd.models import MODELS

MANY = 1_000  # runs of a sweep from which on it is said beforehand how many they are
MOST = 10_000_000  # of a sweep that is planned from its ranges
MOST_MADE = 100_000  # of one whose jobs are made beforehand: each keeps 0.1 MB of configuration
MAKES = ("hydra/launcher", "hydra/sweeper", "store.compact_from")  # words that may have them made
LISTED = ("experiment", "logger", "callbacks")  # groups that several choices may be made of at once
ONE_PATH = ("export.run", "store.run")  # keys that take no list: a comma is part of the path
DEEPEST = 20  # brackets within brackets; the parser recurses
# Measured on 2 cores: seconds of an epoch of a student in a group, and in a small one.
TRAINED = 0.05, 0.1

PLACED = "output_dir=FOLDER and study=NAME say where runs lie"
FROM_CONF = "choices come from conf/; put yours there, as conf/experiment/NAME.yaml"
KEYS = {  # of Hydra's, that are refused with all below them
    **dict.fromkeys(("hydra.run", "hydra.sweep", "hydra.output_subdir", "hydra.job.chdir"), PLACED),
    "hydra.searchpath": FROM_CONF,
    "hydra.sweeper.params": "give the values by themselves, as in -m seed=0,1",
}
OPEN = ("hydra.launcher.", "hydra.sweeper.", "hydra.mode", "hydra.verbose")
# What Hydra checks with an assertion, or an unhelpful message.
VALUES: dict[str, tuple[str, Callable[[Value], bool]]] = {
    "hydra.mode": ("RUN or MULTIRUN", lambda v: v in ("RUN", "MULTIRUN")),
    "hydra.verbose": (
        "true, false or the names of loggers",
        lambda v: isinstance(v, bool | str | list) and v != [],
    ),
    "hydra.sweeper.max_batch_size": (
        "null or a whole number from 1 up",
        lambda v: v is None or (type(v) is int and v > 0),
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help and --hydra-help")


class _Refused(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        raise UserError(f"{self.option_strings[0]}: not available here: {self.help}")


def _parser() -> argparse.ArgumentParser:
    """Read Hydra's flags; their meaning stays with Hydra, which reads them again."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for names in (("--help", "-h"), ("--hydra-help",), ("--version",), ("--resolve",)):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("--package", "-p")
    modes = parser.add_mutually_exclusive_group()
    for names in (("--run", "-r"), ("--multirun", "-m"), ("--shell-completion", "-sc")):
        modes.add_argument(*names, action="store_true")
    modes.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    infos = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    modes.add_argument("--info", "-i", nargs="?", const="all", choices=infos)
    for names in (("--config-path", "-cp"), ("--config-name", "-cn"), ("--config-dir", "-cd")):
        parser.add_argument(*names, action=_Refused, help=FROM_CONF)
    why = "would run whatever the file holds; give the run's command again"
    parser.add_argument("--experimental-rerun", action=_Refused, help=why)
    parser.add_argument("words", nargs="*")
    return parser


def quote_path(word: str) -> str:
    """Quote ``outputs/main/teacher/seed=0/model.ckpt`` or ``größe``: Hydra reads no bare ``=``.

    >>> quote_path("teacher.checkpoint=runs/seed=0")
    'teacher.checkpoint="runs/seed=0"'
    """
    key, _, value = word.partition("=")
    if value.startswith("~/"):  # the shell expands it at the beginning of a word alone
        value = os.path.expanduser(value)
        word = f"{key}={value}"
    odd = "=" in value or re.search(r"[^ -~]", value)
    plain = odd and not re.search(r"['\"\\\[({$]", value)
    one_path = key in ONE_PATH or "," not in value or os.path.exists(value)
    return f'{key}="{value}"' if plain and one_path else word


def check(arguments: list[str]) -> list[str]:
    """Return the same arguments, flags first, as Hydra wants them.

    Each is checked as far as it can be by itself, and a method of the user's own is imported. Of a
    large sweep, a line says how many runs it holds.

    Raises:
        UserError: a flag or a word is not available here, a sweep has no end, or the module of a
            method cannot be imported or holds none.
    """
    arguments = [quote_path(argument) for argument in arguments]
    given = _parser().parse_intermixed_args(arguments)
    flags = [argument for argument in arguments if argument not in given.words]
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
        sweepers = [o.value() for o in overrides if o.key_or_group == "hydra/sweeper"]
        if (given.multirun or "MULTIRUN" in asked) and sweepers in ([], ["basic"], ["grid"]):
            _check_sweep(overrides)
    return flags + _debug_last([_as_choice(word) for word in given.words])


def _debug_last(words: list[str]) -> list[str]:
    """Have Hydra merge ``debug=…`` after an experiment: else that would train in its own study."""
    debug = [f"+{word.lstrip('+')}" for word in words if word.lstrip("+").startswith("debug=")]
    return [word for word in words if not word.lstrip("+").startswith("debug=")] + debug


def _as_choice(word: str) -> str:
    """Return ``kd.method=…`` as ``kd=…``, and ``model.name=…`` likewise.

    The user's own methods are registered with Hydra first.
    """
    key, _, value = word.partition("=")
    names = value.split(",")
    own = [name for name in names if "." in name]
    known = {"kd.method": METHODS, "model.name": MODELS}.get(key, {})
    if known.keys() >= set(names):
        return f"{key.partition('.')[0]}={value}"  # the choice, with all its defaults
    if key not in ("kd", "kd.method") or not own:
        return word
    for name in own:
        defaults = dataclasses.asdict(find_method(name)())
        ConfigStore.instance().store(group="kd", name=name, node=defaults)
    return f"kd={value}"


def _read(word: str) -> Override:
    key = shown(word.partition("=")[0])
    steps = ((character in "[{(") - (character in ")}]") for character in word)
    deepest = max(accumulate(steps, initial=0))
    if deepest > DEEPEST:
        raise UserError(f"{key}: brackets within brackets, {deepest} deep, cannot be read")
    if not key:
        raise UserError(f"{shown(word)!r}: is no KEY=VALUE")
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except ValueError as error:  # Python's limit of a number's digits
        raise UserError(f"{shown(word)}: cannot be read: the number is too long") from error
    return override


def _leaves(key: str, value: Value | types.QuotedString | types.Sweep) -> Iterator[tuple[str, Any]]:
    """Yield the keys that a word gives, each with its value; those within a value too."""
    plain = value.text if isinstance(value, types.QuotedString) else value
    plain = plain.list if isinstance(plain, types.ChoiceSweep) else plain
    yield key, plain
    if isinstance(plain, dict):
        for name, below in plain.items():
            yield from _leaves(f"{key}.{name}", below)
    elif isinstance(plain, list):
        for below in plain:
            yield from _leaves(key, below)


def _check_keys(override: Override) -> None:
    """Refuse what would have Hydra write elsewhere, or run code by its name."""
    root = override.key_or_group
    if override.package is not None:
        at = f"@{override.package}"
        raise UserError(f"{root}{at}: a choice has its place; leave out the {at}")
    if root.startswith("hydra/") and not override.is_delete():
        return  # one of the choices that are installed: see _check_choices
    if not re.match(r"hydra\b", root):
        return
    for key, value in _leaves(root, override.value()):
        for refused, why in KEYS.items():
            if f"{key}.".startswith(f"{refused}."):
                raise UserError(f"{key}: not to be set here: {why}")
        if re.search(r"(^|\.)_\w+_(\.|$)", key):
            raise UserError(
                f"{key}: would run code by its name; choose one that is installed, as in "
                "hydra/launcher=basic"
            )
        if key in VALUES and not VALUES[key][1](value):
            raise UserError(f"{key}={shown(value)}: must be {VALUES[key][0]}")
        if isinstance(value, str) and "${" in value:  # might come to hold _target_
            raise UserError(f"{key}={shown(value)}: takes a plain value, without ${{…}}")
    if override.is_delete() or not root.startswith(OPEN):
        keys = ", ".join(f"{key}…" if key.endswith(".") else key for key in OPEN)
        raise UserError(f"{shown(root)}: not to be set here; of Hydra's own keys these are: {keys}")


def _check_choices(override: Override) -> None:
    """Refuse a choice that is a path out of ``conf``, and several of a group that takes one.

    Loggers are not swept over: jobs that differ in them alone are one run.
    """
    group, value = override.key_or_group, override.value()
    if override.is_delete() or not ("/" in group or (CONF / group).is_dir()):
        return
    if group == "logger" and override.is_sweep_override():
        word = shown(override.input_line)
        raise UserError(f"{word}: is not swept; for several at once give logger=[tensorboard,csv]")
    if group in LISTED and value is None:
        raise UserError(f"{group}=null: for none give {group}=[]")
    if isinstance(value, list) and value and group not in LISTED:
        names = ",".join(map(shown, value))
        raise UserError(f"{group}=[{names}]: takes one choice; to sweep: -m {group}={names}")
    for _, choice in _leaves(group, value):
        if isinstance(choice, str) and not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", choice):
            raise UserError(
                f"{group}={shown(choice)}: no such choice; it is the name of a file in conf/{group}"
            )
    if group.startswith("hydra/") and not isinstance(value, str):
        raise UserError(f"{shown(override.input_line)}: takes the name of one choice")


def _check_sweep(overrides: list[Override]) -> None:
    """Count the runs without listing them; say it if they are many."""
    lengths = {override.get_key_element(): _length(override) for override in overrides}
    runs = math.prod(lengths.values())
    made = any(override.key_or_group in MAKES for override in overrides)
    most = MOST_MADE if made else MOST
    if runs > most:
        number = str(runs) if runs < 10**9 else "billions of"
        raise UserError(f"{number} runs: more than {most} in one sweep; give fewer values")
    if runs > MANY and made:  # a sweep that is planned says it itself, and the time left
        least, longest = (_span(runs * seconds) for seconds in TRAINED)
        print(
            f"{runs} runs: {least} to {longest} for every epoch of a student on 2 cores; Ctrl-C "
            "stops",
            flush=True,
        )


def _length(override: Override) -> int:
    """Count the values that a word sweeps over; 1 if it does not sweep."""
    value, word = override.value(), shown(override.input_line)
    if isinstance(value, types.IntervalSweep):
        raise UserError(
            f"{word}: has no end; range(START,STOP,STEP) sweeps over an interval, and "
            "hydra/sweeper=search searches in it"
        )
    if isinstance(value, types.RangeSweep):
        numbers = value.start or 0, value.stop or 0, value.step
        if not value.step or not all(-math.inf < number < math.inf for number in numbers):
            raise UserError(f"{word}: never ends; give finite numbers, and a step that is not 0")
        start, stop, step = map(Decimal, numbers)
        length = max(0, math.ceil((stop - start) / step))
    elif isinstance(value, types.Glob):
        folder = CONF / override.key_or_group
        if not folder.is_dir():
            raise UserError(f"{word}: only choices of a group can be matched, as in kd=glob(*)")
        length = len(value.filter([path.stem for path in folder.glob("*.yaml")]))
    else:
        length = len(value.list) if isinstance(value, types.ChoiceSweep) else 1
    if not length:
        raise UserError(f"{word}: holds no value")
    return length


def _span(seconds: float) -> str:
    """Put seconds in words, as one says it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
