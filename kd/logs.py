"""What a run says, and where: console, ``train.log``, TensorBoard's table of runs."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from kd.config import Config, flatten

# Few, because TensorBoard shows the first five by the alphabet until one ticks others.
COLUMNS = (
    "kd.T",
    "kd.alpha",
    "kd.method",
    "model.dropout",
    "model.hidden",
    "optim.lr",
    "seed",
    "stage",
    "teacher.seed",
    "trainer.max_epochs",
)
FINAL_METRICS = (
    "test/acc",
    "test/loss",
    "test/ece",
    "fidelity/agreement",
    "fidelity/kl",
    "time/fit_s",
)


def set_up_logging(level: int) -> None:
    """Our lines to the console from ``level`` up, and Lightning's only where something is wrong."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if h.get_name() == "kd"]:
        root.removeHandler(handler)
    console = logging.StreamHandler(sys.stdout)
    console.set_name("kd")
    console.setLevel(level)
    console.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(console)
    logging.getLogger("kd").setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        lightning = logging.getLogger(name)
        lightning.handlers.clear()  # its own handler would print every line a second time
        lightning.propagate = True
        lightning.setLevel(logging.WARNING)
    # Lightning's own use of a torch name that is on its way out: nothing a user can do.
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\.utilities\._pytree")


@contextlib.contextmanager
def train_log(directory: Path) -> Iterator[None]:
    """Everything said goes to ``train.log`` too, the tracebacks of failures with it."""
    directory.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(directory / "train.log", mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def log_hyperparameters(
    logger: TensorBoardLogger, config: Config, metrics: dict[str, float]
) -> None:
    """Fill the run's row in TensorBoard's HPARAMS tab.

    TensorBoard takes the columns from whichever run it reads first, so every run of every stage has
    the same ones. A run without a teacher stands where its loss is: at alpha = 1, T = 1.
    """
    settings = flatten(config)
    if config.stage != "distill":
        settings |= {"kd.method": "none", "kd.T": 1.0, "kd.alpha": 1.0}
    columns = {key.replace(".", "/"): settings[key] for key in COLUMNS}
    writer = logger.experiment._get_file_writer()  # open again: Lightning closed it after the fit
    for summary in hparams(columns, dict.fromkeys(FINAL_METRICS, 0)):
        writer.add_summary(summary)
    found = {key: metrics[key] for key in FINAL_METRICS if key in metrics}
    logger.log_metrics(found, step=config.trainer.max_epochs)
    logger.finalize("success")
