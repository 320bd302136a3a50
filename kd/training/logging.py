"""What a run says, and where: console, ``train.log``, TensorBoard's table of runs."""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from logging.handlers import MemoryHandler
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from kd.config.schema import Config, flatten

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
    # TensorBoard's writer hands an error to its caller at the next figure, and need not print it.
    threading.excepthook = _log_error_of_thread
    # Lightning's own use of a torch name that is on its way out: nothing a user can do.
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\.utilities\._pytree")


def _log_error_of_thread(failed: threading.ExceptHookArgs) -> None:
    if isinstance(failed.exc_value, OSError):
        logging.getLogger("kd").debug("%s: %s", failed.thread, failed.exc_value)
    else:
        threading.__excepthook__(failed)


@contextlib.contextmanager
def train_log() -> Iterator[Callable[[Path], None]]:
    """Collect what is said, and write it to ``train.log`` once it is known that a run begins.

    Yields:
        a function that opens ``train.log`` in a run's folder, writes to it what has been said so
        far, and from then on everything, tracebacks of failures included.
    """
    root, collected = logging.getLogger(), MemoryHandler(10_000, flushLevel=sys.maxsize)
    root.addHandler(collected)

    def write(directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(directory / "train.log", mode="w", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        file.handleError = lambda record: None  # on a full disk the run itself says so
        collected.setTarget(file)
        collected.flush()
        collected.capacity = 1  # nothing waits from now on

    try:
        yield write
    finally:
        root.removeHandler(collected)
        if collected.target:
            collected.target.close()
        collected.setTarget(None)
        collected.close()


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
