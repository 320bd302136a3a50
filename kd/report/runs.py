"""A complete run, read back from its folder."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kd.models.network import Network
from kd.report.predictions import Predictions, read_predictions
from kd.training.checkpoint import load_checkpoint

CHECKPOINT = "model.ckpt"
MOST_BYTES = 2**16  # the limit of a file of Hydra's, which has a few kB


@dataclass(frozen=True)
class Run:
    """A complete run: its folder and its metrics; all else is read when asked for."""

    folder: Path
    metrics: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Stage and parameters, as the folder names them."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def checkpoint(self) -> Path:
        """The file of the trained network."""
        return self.folder / CHECKPOINT

    def network(self) -> Network:
        """Load the trained network, in evaluation mode.

        Raises:
            UserError: ``model.ckpt`` is missing or damaged.
        """
        return load_checkpoint(self.checkpoint)

    @cached_property
    def predictions(self) -> Predictions:
        """The network's answers to the test images.

        Raises:
            UserError: the file is missing, damaged, or not the one that the run wrote.
        """
        sha256 = self.metrics.get("predictions/sha256")
        return read_predictions(self.folder / "predictions.npz", sha256)

    def forget_predictions(self) -> None:
        """Free the memory of the predictions; they are read again when asked for again."""
        self.__dict__.pop("predictions", None)

    def read_hydra(self, name: str) -> Any:
        """Read one of the files in ``.hydra``; return None if it cannot be read."""
        path = self.folder / ".hydra" / name
        try:
            if not path.is_file() or path.stat().st_size > MOST_BYTES:
                return None
            return yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            return None


def mean_metric(runs: Iterable[Run], key: str) -> float:
    """Compute the mean of one of the runs' metrics."""
    return float(np.mean([run.metrics[key] for run in runs]))
