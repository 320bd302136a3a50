"""A run's curves, its row in the table of runs and a report's pictures, for TensorBoard."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, image

from kd.errors import as_typed

# Few, because TensorBoard shows the first five by the alphabet until one ticks others.
# Those that differ in a sweep stand before the rest: TensorBoard sorts within the two by name.
DIFFERING = {"kd/T", "kd/alpha", "seed", "stage"}
COLUMNS = (
    "kd/T", "kd/alpha", "kd/method", "model/dropout", "model/hidden", "optim/lr", "seed",
    "stage", "teacher/seed", "trainer/max_epochs",
)  # fmt: skip
FINAL_METRICS = {  # as HPARAMS calls them, in its order
    "test/acc": "test accuracy",
    "test/gain": "gain over the student alone",
    "test/loss": "test loss",
    "test/ece": "test calibration error",
    "fidelity/agreement": "agreement with the teacher",
    "fidelity/kl": "KL to the teacher",
    "time/fit_s": "training time, s",
}
LAST = "when_trained/"  # puts their single points below the curves, which TensorBoard sorts by name


class Curves(Logger):
    """The event file of one run, or of a report: ``logger=tensorboard``.

    Each call opens the file, appends to it and closes it. TensorBoard's own writer keeps a file and
    a thread per run, of which a large sweep has too many, and begins a new file when it is opened
    again.

    Args:
        directory: of the run, or of the report.
    """

    def __init__(self, directory: Path | str) -> None:
        super().__init__()
        stamp = f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self.settings: dict[str, Any] = {}
        self.file = Path(directory) / f"events.out.tfevents.{stamp}"

    @property
    def name(self) -> str:
        """Lightning's word for a kind of logger."""
        return "tensorboard"

    @property
    def version(self) -> str:
        """Lightning's word for what tells one logger from another."""
        return self.file.name

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one point per metric."""
        tags = {tag: LAST + tag if tag in FINAL_METRICS else tag for tag in metrics}
        values = [Summary.Value(tag=tags[tag], simple_value=v) for tag, v in metrics.items()]
        self._append(Event(step=step, summary=Summary(value=values)))

    def log_hyperparams(self, params: Mapping[str, Any], *_: object, **__: object) -> None:
        """Keep the run's settings for :meth:`finalize`."""
        self.settings = dict(params)

    def finalize(self, status: str) -> None:
        """Fill the row of a run that has succeeded in TensorBoard's HPARAMS tab.

        TensorBoard takes the columns from whichever run it reads first, so every run of every stage
        has the same ones. A run without a teacher stands where its loss is: at alpha = 1, T = 1.
        """
        if status != "success" or not self.settings:
            return
        settings = dict(self.settings)
        if settings["stage"] != "distill":
            settings |= {"kd/method": "none", "kd/T": 1.0, "kd/alpha": 1.0}
        values = {key: settings.get(key, "none") for key in COLUMNS}  # as networks have them
        columns = {k: as_typed(v) if isinstance(v, list) else v for k, v in values.items()}
        experiment, *session = hparams(columns, {LAST + tag: 0 for tag in FINAL_METRICS})
        for summary in (in_order(experiment), *session):
            self._append(Event(summary=summary))

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


def in_order(experiment: Summary) -> Summary:
    """Have HPARAMS begin with the columns that differ, and call the metrics by words."""
    plugin = experiment.value[0].metadata.plugin_data
    described = HParamsPluginData.FromString(plugin.content)
    for column in described.experiment.hparam_infos:
        column.differs = column.name in DIFFERING
    for metric in described.experiment.metric_infos:
        metric.display_name = FINAL_METRICS[metric.name.tag.removeprefix(LAST)]
    plugin.content = described.SerializeToString()
    return experiment
