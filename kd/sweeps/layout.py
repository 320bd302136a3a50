"""Who shares what in a stack: images, dropout masks, the form of the loss."""

import dataclasses
from collections.abc import Hashable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd.config.schema import Config
from kd.fields import sweepable_names
from kd.methods.base import SCHEDULED, Distillation
from kd.sweeps.students import is_taught
from kd.training.material import Material


class Rows:
    """Which row of a table each student takes.

    Args:
        rows: a number per student.
        device: of the tables.
    """

    def __init__(self, rows: Sequence[int], device: torch.device) -> None:
        self.rows = torch.tensor(rows, device=device)
        count = max(rows) + 1
        each, left = divmod(len(rows), count)
        regular = not left and list(rows) == [row for row in range(count) for _ in range(each)]
        self.each = each if regular else None  # how many students side by side share a row

    def take(self, table: Tensor) -> Tensor:
        """(rows, …) → (students, …)."""
        if self.each is None:
            return table.index_select(0, self.rows)
        return table.unsqueeze(1).expand(-1, self.each, *table.shape[1:]).flatten(0, 1)


class Numbered:
    """Things numbered as they come up, equal ones alike."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def __call__(self, thing: Hashable) -> int:
        """The number of a thing."""
        return self.known.setdefault(thing, len(self.known))

    def all(self) -> list[Any]:
        """The things, in the order of their numbers."""
        return list(self.known)


class Lane(NamedTuple):
    """What the students share that see the same batches."""

    seed: int
    data: str  # the settings that decide which images these have


class Draw(NamedTuple):
    """What the students share whose dropout masks are made of the same numbers."""

    seed: int
    share: float | None  # where it decides the masks as they are drawn
    width: int | None  # where students of a stack differ in it


@dataclasses.dataclass(eq=False)
class Kind:
    """Students whose losses have one form and differ in numbers alone."""

    kd: Distillation | None  # None trains on the labels alone
    width: int | None  # of the hidden layers that the method compares; None compares none
    regression: tuple[int, int] | None
    places: list[int] = dataclasses.field(default_factory=list)  # of its students in the stack
    methods: list[Distillation] = dataclasses.field(default_factory=list)  # of each of them

    @property
    def maps(self) -> bool:
        """Whether the method compares feature maps."""
        return self.kd is not None and self.kd.needs_maps

    def numbers(self, device: torch.device) -> dict[str, Tensor]:
        """The numbers of the method that its term takes, one value per student."""
        if self.kd is None:
            return {}
        return {
            name: torch.tensor([getattr(kd, name) for kd in self.methods], device=device)
            for name in sweepable_names(self.kd)
            if name not in SCHEDULED
        }


def lane_of(config: Config) -> Lane:
    """The lane of a student; where views are drawn, which mix labels, these decide too."""
    data = (
        config.data
        if config.data.augment.active
        else dataclasses.replace(config.data, label_noise=0.0)
    )
    return Lane(config.seed, repr(data))


def width_of(config: Config) -> int:
    """Of a student's hidden layer; 1 where the network is none whose layers are padded."""
    return getattr(config.model, "widths", [1])[-1]  # as 16 and [16] are the same


def draw_of(config: Config) -> Draw:
    """What the dropout masks of a student are drawn with.

    Those of the stack of MLPs are made of the same numbers whatever is dropped.
    """
    if config.model.stacks:
        return Draw(config.seed, None, width_of(config))
    return Draw(config.seed, share_of(config), None)


def share_of(config: Config) -> float:
    """The share of units that a student drops; 0 where its network has no such setting."""
    return getattr(config.model, "dropout", 0.0)


def kinds_of(configs: Sequence[Config], materials: Sequence[Material]) -> list[Kind]:
    """The kinds of students that a stack has.

    Students without a teacher join the first kind that compares logits alone: there they are
    what it has at alpha = 1.
    """
    kinds: dict[Any, Kind] = {}
    for place, (config, material) in enumerate(zip(configs, materials, strict=True)):
        if not is_taught(config):
            continue
        kd, own = config.kd, sweepable_names(config.kd)
        fixed = {f.name: getattr(kd, f.name) for f in dataclasses.fields(kd) if f.name not in own}
        width = material.widths[0] if kd.needs_hidden and material.widths else None
        key = repr((fixed, material.widths, material.regression))
        kind = kinds.setdefault(key, Kind(kd, width, material.regression))
        kind.places.append(place)
        kind.methods.append(kd)
    alone = [place for place, config in enumerate(configs) if not is_taught(config)]
    if alone:
        fitting = [kind for kind in kinds.values() if kind.width is None and not kind.maps]
        host = fitting[0] if fitting else kinds.setdefault(None, Kind(None, None, None))
        _admit(host, alone)
    return list(kinds.values())


def _admit(host: Kind, alone: Sequence[int]) -> None:
    """Let students without a teacher join a kind."""
    if host.kd is not None:
        usual = type(host.kd)()
        changes = {name: getattr(usual, name) for name in sweepable_names(usual)} | {"alpha": 1.0}
        host.methods += [dataclasses.replace(host.kd, **changes)] * len(alone)
        ordered = sorted(zip([*host.places, *alone], host.methods, strict=True), key=itemgetter(0))
        host.methods = [kd for _, kd in ordered]
    host.places = sorted([*host.places, *alone])
