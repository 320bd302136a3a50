"""What a run says, and where: on the console and in ``train.log``."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from logging.handlers import MemoryHandler
from pathlib import Path


def set_up_logging(level: int) -> None:
    """Our lines to the console from ``level`` up, and Lightning's only where something is wrong."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if h.get_name() == "kd"]:
        root.removeHandler(handler)
    console = logging.StreamHandler(sys.stdout)
    console.set_name("kd")
    console.setLevel(level)
    root.addHandler(console)
    logging.getLogger("kd").setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        lightning = logging.getLogger(name)
        lightning.handlers.clear()  # its own handler would print every line a second time
        lightning.propagate = True
        lightning.setLevel(logging.WARNING)
    # What logger=csv says of a run's folder, where it finds other files than its own.
    warnings.filterwarnings("ignore", message="Experiment logs directory")
    # On any machine with Slurm, of which Lightning wants to be started in its own way.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # Lightning's own use of a torch name that is on its way out: nothing a user can do.
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\.utilities\._pytree")


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
