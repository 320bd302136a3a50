"""One run, from configuration to ``metrics.json``."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from kd._startup import importing
from kd.config.schema import Config
from kd.data.pool import remember
from kd.training.complete import Outcome, find_complete, skip
from kd.training.logging import set_up_logging

if TYPE_CHECKING:
    from kd.training.fit import Share


def execute(
    config: Config,
    directory: Path,
    hydra: DictConfig | None = None,
    share: "Share | None" = None,
    note: str = "",
    quiet: bool = False,
) -> Outcome:
    """Train, test and save what the configuration says, unless that is done already.

    Args:
        config: of the run.
        directory: its folder, in a folder of its stage in that of its study.
        hydra: the node of that name that Hydra composed; kept beside the configuration.
        share: its share of a group's training; None trains it here.
        note: a line for the log.
        quiet: whether somebody else speaks for the run and keeps the table of its study.

    Raises:
        UserError: the settings, the data, the teacher or the folder do not allow it.
    """
    level = logging.WARNING if quiet else logging.INFO
    set_up_logging(level)
    if (before := find_complete(config, directory)) is not None:
        if not quiet:
            remember([config.data], directory.parents[1])
        return skip(before, directory, quiet)
    with importing():  # torch and Lightning: what is complete needs neither
        from kd.training.train_run import train_run
        from kd.training.unpack import unpack_teachers
    unpack_teachers(config)
    set_up_logging(level)  # Lightning has set up its own
    return train_run(config, directory, hydra, share, note, quiet)
