"""A run's curves, its row in the table of runs and a report's pictures, for TensorBoard."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, image

from kd.config.schema import Config, flatten
from kd.errors import as_typed

# Few, because TensorBoard shows the first five by the alphabet until one ticks others.
COLUMNS = (
    "kd.T", "kd.alpha", "kd.method", "model.dropout", "model.hidden", "optim.lr", "seed",
    "stage", "teacher.seed", "trainer.max_epochs",
)  # fmt: skip
FINAL_METRICS = (
    "test/acc", "test/loss", "test/ece", "fidelity/agreement", "fidelity/kl", "time/fit_s",
)  # fmt: skip


class Curves:
    """The event file of one run, or of a report.

    Each call opens the file, appends to it and closes it. TensorBoard's own writer keeps a file and
    a thread per run, of which a large sweep has too many, and begins a new file when it is opened
    again.

    Args:
        directory: of the run, or of the report.
    """

    def __init__(self, directory: Path) -> None:
        stamp = f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self.file = directory / f"events.out.tfevents.{stamp}"

    def draw(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Append one point per metric."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
        self._append(Event(step=epoch, summary=Summary(value=values)))

    def list_run(self, config: Config, metrics: Mapping[str, float]) -> None:
        """Fill the run's row in TensorBoard's HPARAMS tab.

        TensorBoard takes the columns from whichever run it reads first, so every run of every stage
        has the same ones. A run without a teacher stands where its loss is: at alpha = 1, T = 1.
        """
        settings: dict[str, Any] = flatten(config)
        if config.stage != "distill":
            settings |= {"kd.method": "none", "kd.T": 1.0, "kd.alpha": 1.0}
        values = {key: settings.get(key, "none") for key in COLUMNS}  # as networks have them
        columns = {
            key.replace(".", "/"): as_typed(value) if isinstance(value, list) else value
            for key, value in values.items()
        }
        for summary in hparams(columns, dict.fromkeys(FINAL_METRICS, 0)):
            self._append(Event(summary=summary))
        known = {key: metrics[key] for key in FINAL_METRICS if key in metrics}
        self.draw(known, config.trainer.max_epochs)

    def add_picture(self, tag: str, pixels: np.ndarray) -> None:
        """Append a picture, (height, width, 3) bytes."""
        self._append(Event(summary=image(tag, pixels, dataformats="HWC")))

    def _append(self, event: Event) -> None:
        event.wall_time = time.time()
        if new := not self.file.exists():
            self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            writer = RecordWriter(file)
            if new:
                first = Event(wall_time=event.wall_time, file_version="brain.Event:2")
                writer.write(first.SerializeToString())
            writer.write(event.SerializeToString())
