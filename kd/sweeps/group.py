"""The training of one group of a sweep, from its plan to each job's share of it."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from kd.config.schema import Config
from kd.errors import OutOfMemory
from kd.sweeps.grouping import cell_of, in_common, refuse_unhandled
from kd.sweeps.module import GroupModule
from kd.sweeps.plan import Planned
from kd.training import unfinished
from kd.training.book import epoch_line, refuse_diverged
from kd.training.callbacks import Record, ShowProgress
from kd.training.curves import Curves
from kd.training.fit import Share, Trained, share_of, train
from kd.training.logging import set_up_logging
from kd.training.material import Material, prepare
from kd.training.memory import available_bytes, student_bytes
from kd.training.run_folder import clear, hashes

log = logging.getLogger(__name__)


def train_group(
    planned: Planned,
    lead: Config,
    configs: Sequence[Config],
    directories: Sequence[Path],
    words: Iterable[str],
) -> list[Share]:
    """Train the students of one group, or go on where an earlier attempt was ended.

    Args:
        planned: its seeds and cells.
        lead: a configuration with the settings that its students share.
        configs: of the jobs that want one of its students each.
        directories: of their runs, which the caller holds the locks of.
        words: of the command of one of them, for messages.

    Returns:
        each job's share.

    Raises:
        UserError: the accelerator, the data or the teacher is not to be had.
    """
    set_up_logging(logging.INFO)
    grid = [(seed, cell) for seed in planned.seeds for cell in planned.cells]
    refuse_too_large(len(grid), lead)
    material = prepare(lead, words)
    module = GroupModule(lead, planned.seeds, planned.cells, material)
    refuse_unhandled(configs, lead, module.handled)
    study, settings = directories[0].parents[1], digest(lead, material)
    before = unfinished.saved(study, planned.name, settings)
    for directory in directories:
        clear(directory)

    def save(epoch: int, write: Callable[[Path], None]) -> None:
        unfinished.save(study, planned.name, settings, epoch, write)

    students = [grid.index((config.seed, cell_of(config, lead))) for config in configs]
    curves = [Curves(directory) for directory in directories]
    record = Record(save, list(zip(students, curves, strict=True)))
    device = material.accelerator.device
    log.info("%d students train together on %s: %s", len(grid), device, in_short(lead))
    train(lead, material.accelerator, module, [record, ShowProgress(every=1)], before)
    without_teacher = material._replace(teachers=[], teacher=None, teacher_outputs=None)
    said = f"trained together with {len(grid) - 1} other students, on {device}"
    return [
        Share(
            material if config.stage == "distill" else without_teacher,
            partial(report_training, share_of(module, student, of_run), said),
        )
        for config, student, of_run in zip(configs, students, curves, strict=True)
    ]


def report_training(trained: Trained, said: str) -> Trained:
    """Say in a run's log how it went in its group.

    Raises:
        UserError: it failed there.
    """
    log.info("%s", said)
    for epoch, row in enumerate(trained.rows, 1):
        log.info("%s", epoch_line(row, epoch, len(trained.rows)))
        refuse_diverged({"train/loss": row["train/loss"]}, epoch)
    return trained


def refuse_too_large(students: int, lead: Config) -> None:
    """Make sure that a group fits in the memory that is free, before any of it is taken.

    Raises:
        OutOfMemory: it does not.
    """
    needed, free = students * student_bytes(lead), available_bytes()
    if free is not None and needed > free:
        raise OutOfMemory(
            f"a group of {students} students needs about {needed / 2**20:.0f} MB and "
            f"{free / 2**20:.0f} MB are free"
        )


def digest(config: Config, material: Material) -> str:
    """What stands for all that the students of a group share and that their results depend on."""
    data, teachers = material.data.fingerprint, hashes(material.teachers)
    return unfinished.digest([in_common(config), data, teachers])


def in_short(config: Config) -> str:
    """The group in half a line."""
    said = f"stage={config.stage} epochs={config.trainer.max_epochs}"
    return f"{said} kd={config.kd.method}" if config.stage == "distill" else said
