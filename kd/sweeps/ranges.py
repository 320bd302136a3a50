"""Large sweeps planned from their ranges: no job is made before its turn.

Jobs that differ in settings of a student's own alone are a *family*: one job, composed by Hydra,
stands for all, and the others are made of it by putting in other values. A family is cut into
*blocks* of some thousand jobs, each a sweep of its own whose runs make a pack.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser

from kd.config.naming import run_name
from kd.config.node import Node
from kd.config.schema import Config, flatten, relevant
from kd.config.validation import check_each, check_together
from kd.sweeps.job_configs import Job, plain_node, refuse_same_folder
from kd.sweeps.students import own_keys, replaced
from kd.training.packs import FOLDER
from kd.training.unfinished import digest

# Settings of a student's own that make a family of their own nevertheless: networks of one form
# are stacked without padding, and a method is code.
APART = {"model.hidden", "kd.method"}


# Values of a key that are tried beside the other settings: these go together with all or with none
# but a few, as with 0.
MOST_CHECKED = 1000


@dataclass(frozen=True)
class Axis:
    """A key with the values that a family sweeps over."""

    key: str
    place: int  # of its word among those of the command
    words: tuple[str, ...]
    values: tuple[Any, ...]  # checked, of the setting's type


@dataclass(frozen=True)
class Family:
    """Jobs that differ in settings of a student's own alone, in an order that suits training.

    Students of one seed see the same images in the same order, so that they stand side by side.
    """

    lead: Job
    words: tuple[str, ...]  # of the lead's command
    axes: tuple[Axis, ...]  # the one that changes least often first

    def __len__(self) -> int:
        """How many jobs it has."""
        return math.prod(len(axis.words) for axis in self.axes)

    @cached_property
    def identity(self) -> str:
        """What stands for its study and the settings of all its jobs."""
        own = {axis.key for axis in self.axes}
        shared = {k: v for k, v in relevant(self.lead.config).items() if k not in own}
        swept = [(axis.key, axis.values) for axis in self.axes]
        return digest([self.lead.config.study, shared, swept])

    def blocks(self, size: int) -> Iterator[Block]:
        """Cut the family into blocks of at most so many jobs, about equally large."""
        count = -(-len(self) // size)
        ends = [len(self) * n // count for n in range(count + 1)]
        return (self.block(*pair) for pair in itertools.pairwise(ends))

    def block(self, start: int, stop: int) -> Block:
        """The jobs from one number to another, with those values alone that they have."""
        sizes = [*(len(axis.words) for axis in self.axes), 1]  # a single job has no axis
        axes, places = [], []
        for axis, column in zip(
            self.axes, np.unravel_index(np.arange(start, stop), sizes), strict=False
        ):
            used, own = np.unique(column, return_inverse=True)
            words, values = (tuple(some[n] for n in used) for some in (axis.words, axis.values))
            axes.append(Axis(axis.key, axis.place, words, values))
            places.append(own)
        table = np.stack(places, axis=1) if places else np.empty((stop - start, 0), int)
        name = digest([self.identity, start, stop])
        return Block(self.lead, self.words, tuple(axes), table, name)


@dataclass(frozen=True, eq=False)
class Block:
    """Some jobs of a family, side by side in its order."""

    lead: Job
    words: tuple[str, ...]
    axes: tuple[Axis, ...]
    places: np.ndarray  # (jobs, axes): which value each job has
    name: str  # of its pack: it stands for the settings of all its jobs

    def __len__(self) -> int:
        """How many jobs it has."""
        return len(self.places)

    @property
    def study(self) -> Path:
        """The folder of its study."""
        return self.lead.study

    @property
    def folder(self) -> Path:
        """Where its pack lies."""
        return self.study / FOLDER / self.name

    def jobs(self, most: int | None = None) -> list[Job]:
        """Make the jobs, without loggers: those of a pack have no files of their own.

        Args:
            most: how many of them; None makes all.

        Raises:
            UserError: settings do not go together.
        """
        node = plain_node(self.lead)
        return [self._job(place, node) for place in self.places[:most].tolist()]

    def _job(self, place: Sequence[int], node: Node) -> Job:
        words, values = [*self.words], dict[str, Any]()
        for axis, at in zip(self.axes, place, strict=True):
            words[axis.place], values[axis.key] = axis.words[at], axis.values[at]
        config = dataclasses.replace(replaced(self.lead.config, values), logger={})
        check_together(config)
        name, hydra = run_name(config, words), cast("Any", node.with_words(words))
        return Job(config, hydra, name, self.study / name, packed=True)


def plan_families(
    lists: Sequence[Sequence[str]], compose: Callable[[list[str]], Job]
) -> list[Family]:
    """Plan a sweep.

    Args:
        lists: as of :func:`kd.sweeps.job_configs.read_lists`.
        compose: makes a job of the words of its command, checked.

    Raises:
        UserError: a setting is wrong.
    """
    own = _own(compose([words[0] for words in lists]).config)
    swept = [place for place, words in enumerate(lists) if len(words) > 1]
    apart = [place for place in swept if _key(lists[place][0]) not in own]
    while True:
        families = []
        for chosen in itertools.product(*(lists[place] for place in apart)):
            words = [some[0] for some in lists]
            for place, word in zip(apart, chosen, strict=True):
                words[place] = word
            lead = compose(words)
            left = [place for place in swept if place not in apart]
            # What only some networks or methods have, or other settings follow, makes families.
            odd = [p for p in left if _key(words[p]) not in _own(lead.config)]
            odd = odd or [p for p in left if _is_followed(lead, words, lists, p, compose)]
            if odd:
                apart = sorted({*apart, *odd})
                break
            families.append(_family(lead, words, lists, left))
        else:
            return _distinct(families)


def _distinct(families: Sequence[Family]) -> list[Family]:
    """The families but for those with another's jobs: of settings that their stage does not use.

    Raises:
        UserError: two families have the same folders and differ.
    """
    known: dict[Path, Family] = {}  # by their leads' folders
    for family in families:
        other = known.setdefault(family.lead.directory, family)
        if other.identity != family.identity:
            refuse_same_folder(family.lead, other.lead)
    return [*known.values()]


def _own(config: Config) -> set[str]:
    """The keys that jobs of a family may differ in, those that the stage does not use included."""
    methods = {f"kd.{spec.name}" for spec in dataclasses.fields(config.kd)}
    return (own_keys(config) | methods) - APART


def _is_followed(
    lead: Job,
    words: Sequence[str],
    lists: Sequence[Sequence[str]],
    place: int,
    compose: Callable[[list[str]], Job],
) -> bool:
    """Whether other settings change with a key, as ``optim.lr`` does with ``model.lr``."""
    if any("$" in word for word in lists[place]):
        return True
    key, other = _key(words[place]), [*words]
    other[place] = next((word for word in lists[place] if word != words[place]), words[place])
    config = compose(other).config
    return config != replaced(lead.config, {key: flatten(config)[key]})


def _family(
    lead: Job, words: Sequence[str], lists: Sequence[Sequence[str]], own: Sequence[int]
) -> Family:
    parser = OverridesParser.create()
    matters = relevant(lead.config)
    axes = []
    for place in own:
        key = _key(words[place])
        if key not in matters:
            continue
        given = (_value(parser, word) for word in lists[place])
        values = dict(zip(lists[place], check_each(lead.config, key, given), strict=True))
        step = max(1, len(values) // MOST_CHECKED)
        for value in [*values.values()][::step]:
            check_together(replaced(lead.config, {key: value}))
        first = {repr(value): word for word, value in reversed(values.items())}
        kept = [word for word in values if first[repr(values[word])] == word]  # not 1 and 1.0
        axes.append(Axis(key, place, tuple(kept), tuple(values[word] for word in kept)))
    slow = ["seed", *sorted({axis.key for axis in axes if axis.key.startswith("data.")})]
    axes.sort(key=lambda axis: slow.index(axis.key) if axis.key in slow else len(slow))
    return Family(lead, tuple(words), tuple(axes))


def _value(parser: OverridesParser, word: str) -> Any:
    """The value that a word gives, as Hydra reads it."""
    text = word.partition("=")[2]
    if re.fullmatch(r"-?\d+", text):  # Hydra's parser takes half a millisecond
        return int(text)
    if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", text):
        return float(text)
    return parser.parse_override(word).value()


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")
