"""What a search varies: the words of its command as distributions of Optuna's, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from kd.config.schema import BESIDE, NOT_RELEVANT, Config, flatten
from kd.errors import UserError, shown

Params = dict[str, Any]  # by key: what a trial tries
DIGITS = 5  # of a number that is tried
# Trials that differ in these have no figures that can be compared, or none at all.
IMAGES = ("dataset", "dir", "file", "seed", "size", "source", "split", "test_size", "val_size")
FIXED = {"stage", "seed", "experiment", "debug", "data", *(f"data.{name}" for name in IMAGES)}
FIXED |= NOT_RELEVANT | BESIDE


@dataclass(frozen=True)
class Space:
    """The words of a search: what is varied, and what all trials have in common."""

    varied: dict[str, BaseDistribution]  # by key
    told: dict[str, str]  # by such a key: how the command gives it
    fixed: list[str]  # the other words, but those of ``search.``
    example: list[str]  # the words of a run

    def words(self, params: Params, seed: int, stage: str | None = None) -> list[str]:
        """The words of a run with such values.

        Args:
            params: by key, as Optuna has them.
            seed: of the run.
            stage: in place of the command's.
        """
        values = [f"{key}={self.value(key, params[key])}" for key in self.varied]
        fixed = [w for w in self.fixed if not (stage and w.startswith("stage="))]
        stages = [f"stage={stage}"] if stage else []
        return [*stages, *fixed, *values, f"seed={seed}"]

    def value(self, key: str, value: Any) -> Any:
        """The value that a run gets: a number has five digits, unless they leave the interval."""
        of = self.varied[key]
        if not isinstance(of, FloatDistribution):
            return value
        told = float(f"{value:.{DIGITS}g}")
        return told if of.low <= told <= of.high else value


def read_space(
    words: Sequence[str], configured: Callable[[list[str]], Config]
) -> tuple[Space, Config]:
    """Read the words of a search's command.

    Args:
        words: without those that are Hydra's own.
        configured: makes a checked configuration of the words of one run.

    Returns:
        the space, and the configuration of one of its settings, with that of the search.

    Raises:
        UserError: nothing is varied, or something that cannot be.
    """
    overrides = OverridesParser.create().parse_overrides([_as_list(word) for word in words])
    swept = {o.get_key_element().lstrip("+"): o for o in overrides if o.is_sweep_override()}
    plain = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
    if not swept:
        raise UserError(
            "hydra/sweeper=search: nothing to search; give a key an interval, as in "
            "kd.T=interval(1,10), or several values"
        )
    for key in swept:
        if key in FIXED or key.startswith("search."):
            raise UserError(f"{key}: is the same for all trials of a search; give it one value")
    for word in plain:
        if word.lstrip("+").startswith("seed="):
            raise UserError(f"{shown(word)}: the seeds of a search are given as search.seeds=0,1,2")
    fixed = [word for word in plain if not word.startswith("search.")]
    ends = {key: _ends(override) for key, override in swept.items()}
    config, values = Config(), []
    for number in range(max(map(len, ends.values()))):  # each of them is within its key's bounds
        values = [f"{key}={some[number % len(some)]}" for key, some in ends.items()]
        config = configured([*plain, *values])
    known = flatten(config)
    varied = {key: _distribution(swept[key], ends[key], known.get(key)) for key in swept}
    told = {key: str(override.input_line).partition("=")[2] for key, override in swept.items()}
    return Space(varied, told, fixed, [*fixed, *values]), config


def _as_list(word: str) -> str:
    """``search.seeds=0,1,2`` as a list: no sweep, but the seeds of each trial."""
    key, _, value = word.partition("=")
    if key != "search.seeds" or value.startswith("["):
        return word
    (override,) = OverridesParser.create().parse_overrides([word])
    values = override.sweep_string_iterator() if override.is_sweep_override() else [value]
    return f"{key}=[{','.join(values)}]"


def _ends(override: Override) -> list[Any]:
    """The least and the largest value of an interval; of others all."""
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return list(override.sweep_string_iterator())
    low, high = value.start, value.end
    if low is None or high is None or not low < high:
        raise UserError(f"{shown(override.input_line)}: an interval goes from less to more")
    return [int(end) if float(end).is_integer() else end for end in (low, high)]


def _distribution(override: Override, ends: list[Any], known: Any) -> BaseDistribution:
    """What Optuna draws a value from.

    Args:
        override: of the key.
        ends: see :func:`_ends`.
        known: a value that the key has.

    Raises:
        UserError: Optuna knows no such distribution.
    """
    value, word = override.value(), shown(override.input_line)
    logarithmic = "log" in value.tags if isinstance(value, IntervalSweep | RangeSweep) else False
    if isinstance(value, ChoiceSweep) or not isinstance(value, IntervalSweep | RangeSweep):
        return CategoricalDistribution(ends)
    if value.tags - {"log"}:
        raise UserError(f"{word}: of tags a search knows log, as in tag(log,interval(1,64))")
    low, high = float(ends[0]), float(ends[-1])
    if logarithmic and low <= 0:
        raise UserError(f"{word}: an interval of logarithms begins above 0")
    whole = type(known) is int and low.is_integer() and high.is_integer()
    step = value.step if isinstance(value, RangeSweep) else None
    if step is not None and (logarithmic or step <= 0):
        raise UserError(f"{word}: a range has steps above 0, and no tag log")
    if whole:
        return IntDistribution(int(low), int(high), log=logarithmic, step=int(step or 1))
    return FloatDistribution(low, high, log=logarithmic, step=step)
