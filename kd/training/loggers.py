"""The loggers of a run, which get its settings and its figures, and cannot harm it."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger

from kd.config.messages import is_disk_full
from kd.config.schema import BESIDE, Config, flatten
from kd.errors import reason
from kd.training.curves import Curves
from kd.training.targets import make_all

log = logging.getLogger(__name__)


class Loggers(AbstractContextManager["Loggers"]):
    """The loggers of one run; those that fail are left out from then on.

    As a context they are told of a run that ends without :meth:`finish` that it failed.

    Args:
        config: of the run.
        directory: of the run.
        lost: of a run that trains together with others, what the loggers of all that have failed
            are called. Those that cannot have many runs open at once get such a run as a whole, in
            :meth:`finish`.

    Raises:
        UserError: a logger cannot be made.
    """

    def __init__(self, config: Config, directory: Path, lost: set[str] | None = None) -> None:
        self.loggers = make_all("logger", Logger, config, directory)
        self.lost: set[str] = set() if lost is None else lost
        self.live = [
            name for name, made in self.loggers.items() if lost is None or isinstance(made, Curves)
        ]
        self.settings: dict[str, Any] = {
            key.replace(".", "/"): value
            for key, value in flatten(config).items()
            if key not in BESIDE
        }
        self.open = False

    def begin(self) -> None:
        """Tell of the settings."""
        self.open = True
        self._each(self.live, lambda logger: logger.log_hyperparams(self.settings))

    def draw(self, row: Mapping[str, float], epoch: int) -> None:
        """Tell of an epoch's figures."""
        self._each(self.live, lambda logger: logger.log_metrics(dict(row), epoch))

    def finish(self, rows: Sequence[Mapping[str, float]], figures: Mapping[str, float]) -> None:
        """Tell of the trained network's figures, and those that were not live of all the rest.

        Args:
            rows: of all epochs.
            figures: of the network that was kept.
        """

        def tell_all(logger: Logger) -> None:
            logger.log_hyperparams(self.settings)
            for epoch, row in enumerate(rows, 1):
                logger.log_metrics(dict(row), epoch)

        self._each([name for name in self.loggers if name not in self.live], tell_all)
        self._each(self.loggers, lambda logger: logger.log_metrics(dict(figures), len(rows)))
        self._end("success")

    def __exit__(self, *_: object) -> None:
        """Tell that the run failed, unless it is finished."""
        if self.open:
            self._end("failed")

    def _end(self, status: str) -> None:
        self.open = False
        self._each(self.loggers, lambda logger: logger.finalize(status))
        runs = [name for name, made in self.loggers.items() if isinstance(made, WandbLogger)]
        # Lightning leaves W&B's run open, and the next one of this process would continue it.
        self._each(runs, lambda logger: logger.experiment.finish(int(status != "success")))

    def _each(self, names: Iterable[str], tell: Callable[[Any], object]) -> None:
        """Have the loggers of these names told; those that fail are left out from then on.

        Raises:
            OSError: no room is left on the disk, which the run would meet next.
        """
        for name in names:
            if name in self.lost:
                continue
            try:
                tell(self.loggers[name])
            except Exception as error:
                if is_disk_full(error):
                    raise
                self.lost.add(name)
                log.warning("logger=%s: failed, and gets no more: %s", name, reason(error))
