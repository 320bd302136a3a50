"""The training of one group of a sweep, from its plan to each job's share of it."""

import logging
from functools import partial

from kd.sweeps.grouping import Group, cell_of, in_common, refuse_unhandled
from kd.sweeps.module import GroupModule
from kd.training.book import epoch_line, refuse_diverged
from kd.training.callbacks import Record, ShowProgress
from kd.training.fit import Share, Trained, share_of, train
from kd.training.loggers import Loggers
from kd.training.logging import set_up_logging
from kd.training.material import prepare
from kd.training.memory import refuse_too_large
from kd.training.run_folder import clear
from kd.training.unfinished import State

log = logging.getLogger(__name__)


def train_group(group: Group) -> list[Share]:
    """Train the students of one group, or go on where an earlier attempt was ended.

    Args:
        group: the caller holds the locks of its members' folders.

    Returns:
        each member's share.

    Raises:
        UserError: the accelerator, the data or the teacher is not to be had.
    """
    set_up_logging(logging.INFO)
    planned, lead = group.planned, group.lead.config
    configs = [job.config for job in group.members]
    grid = [(seed, cell) for seed in planned.seeds for cell in planned.cells]
    material = prepare(lead, group.lead.hydra.overrides.task)
    refuse_too_large(lead, material.data.task, len(grid))
    module = GroupModule(lead, planned.seeds, planned.cells, material)
    refuse_unhandled(configs, lead, module.handled)
    lost: set[str] = set()
    loggers = [Loggers(job.config, job.directory, lost) for job in group.members]
    state = State(group.lead.study, planned.name, material.digest(lead, in_common(lead)))
    before = state.saved()
    for job in group.members:
        clear(job.directory)

    students = [grid.index((config.seed, cell_of(config, lead))) for config in configs]
    record = Record(state, list(zip(students, loggers, strict=True)))
    device = material.accelerator.device
    of = f" kd={lead.kd.method}" if lead.stage == "distill" else ""
    log.info("%d students train together on %s: stage=%s%s", len(grid), device, lead.stage, of)
    train(lead, material.accelerator, module, [record, ShowProgress(every=1)], before)
    without_teacher = material._replace(
        teachers=[], teacher=None, teacher_split=None, teacher_outputs=None
    )
    said = f"trained together with {len(grid) - 1} other students, on {device}"
    return [
        Share(
            material if config.stage == "distill" else without_teacher,
            partial(report_training, share_of(module, student, of_run), said),
        )
        for config, student, of_run in zip(configs, students, loggers, strict=True)
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
