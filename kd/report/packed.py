"""Runs that lie in packs, of which a study may have a hundred thousand.

Such a run is a view of its pack's table. Its classes are read when asked for, those of many runs a
pack at a time. Logits and a network it has once it is unpacked, which is done of the few runs whose
networks the report shows.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from kd.errors import UserError
from kd.files import lock
from kd.report.evaluation import Run
from kd.report.predictions import Predictions
from kd.training.pack_rows import Row
from kd.training.packs import Pack
from kd.training.run_folder import LOCKS, read_metrics
from kd.training.unpack import unpack

OWN_KL = " Of runs in packs the KL is known to their own teacher alone."


class PackedRun(Run):
    """A run that lies in a pack; its metrics are a row of it."""

    @property
    def row(self) -> Row:
        """Its metrics, which know their pack."""
        assert isinstance(self.metrics, Row)
        return self.metrics

    @property
    def pack(self) -> Pack:
        """The pack that it lies in."""
        return self.row.columns.pack

    @property
    def name(self) -> str:
        """Stage and parameters, as a folder of its own would be named."""
        return self.metrics["run"]

    @property
    def count(self) -> int:
        """The number of classes."""
        return self.metrics["images/classes"]

    @property
    def labels(self) -> np.ndarray:
        """The labels of the test images."""
        return self.pack.images.labels

    @property
    def indices(self) -> np.ndarray:
        """The test images' numbers."""
        return self.pack.images.indices

    @cached_property
    def answers(self) -> np.ndarray:
        """The class that the network names for every image."""
        return answers_of(self.pack)[:, self.row.number].copy()

    @property
    def own(self) -> Run:
        """The run as an ordinary one: it gets a folder of its own.

        Raises:
            UserError: its weights have not been kept, or its images are not at hand.
        """
        if isinstance(self._own, UserError):
            raise self._own
        return self._own

    @cached_property
    def _own(self) -> Run | UserError:
        """The same, or why there is none: several sections ask."""
        try:
            with lock(self.folder.parents[1] / LOCKS / "unpack.lock"):  # two reports may want it
                unpack(self.folder)
        except UserError as error:
            return error
        return Run(self.folder, read_metrics(self.folder) or {}, self.trusted)

    @property
    def predictions(self) -> Predictions:
        """The network's answers to the test images, logits included.

        Raises:
            UserError: neither weights nor logits have been kept, or the images are not at hand.
        """
        try:
            return self.own.predictions
        except UserError:
            if (logits := self.pack.logits(self.name)) is None:
                raise
            parts = logits.astype(np.float32), self.labels, self.indices
            return Predictions(*map(torch.tensor, parts))

    def network(self) -> Any:
        """Load the trained network, in evaluation mode.

        Raises:
            UserError: its weights have not been kept, or its images are not at hand.
        """
        return self.own.network()

    def divergence(self, teacher: Run) -> float:
        """KL from a teacher that is its own, as it was measured then; NaN from others."""
        is_own = self.metrics["teacher/sha256"] == teacher.sha256 is not None
        return self.metrics["fidelity/kl"] if is_own else float("nan")

    @property
    def history(self) -> pd.DataFrame:
        """The figures of every epoch."""
        rows = self.pack.history(self.name)
        return pd.DataFrame(rows, pd.RangeIndex(1, len(rows) + 1, name="epoch"))

    @property
    def ended(self) -> float:
        """When its pack was written, in seconds since 1970."""
        return self.pack.written

    def read_hydra(self, name: str) -> Any:
        """What one of the files in ``.hydra`` would hold."""
        if name == "overrides.yaml":
            return self.pack.words(self.name)
        return self.pack.config(self.name) if name == "config.yaml" else None


@lru_cache(maxsize=1)
def answers_of(pack: Pack) -> np.ndarray:
    """The answers of a pack's runs, those of the last pack kept."""
    return pack.answers.classes


def pack_by_pack(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Yield runs in parts: those of each pack together, then the others one by one."""
    parts: dict[Pack, list[Run]] = {}
    others = []
    for run in runs:
        if isinstance(run, PackedRun):
            parts.setdefault(run.pack, []).append(run)
        else:
            others.append(run)
    yield from parts.values()
    yield from ([run] for run in others)


def read_answers(runs: Iterable[Run]) -> None:
    """Read the answers of packed runs, which keep them."""
    for part in pack_by_pack(run for run in runs if isinstance(run, PackedRun)):
        for run in part:
            _ = run.answers


def forget_answers(runs: Iterable[Run]) -> None:
    """Free the memory of packed runs' answers; they are read again when asked for again."""
    for run in runs:
        if isinstance(run, PackedRun):
            run.__dict__.pop("answers", None)
