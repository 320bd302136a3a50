"""The training of one group of a sweep, from its plan to each job's share of it."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from pytorch_lightning.callbacks import Callback

from kd.config.schema import Config
from kd.sweeps.grouping import Group
from kd.sweeps.module import GroupModule
from kd.sweeps.students import config_of, in_common, is_taught, student_of
from kd.training.book import epoch_line, refuse_diverged
from kd.training.callbacks import Record, ShowProgress
from kd.training.fit import Share, Trained, share_of, train
from kd.training.loggers import Loggers
from kd.training.logging import set_up_logging
from kd.training.material import Material, find_material, with_outputs
from kd.training.memory import refuse_too_large
from kd.training.run_folder import clear
from kd.training.teacher import needs_live_teacher
from kd.training.unfinished import State, digest

log = logging.getLogger(__name__)


class Materials:
    """What each of a group's students needs, found once for those that need the same.

    Args:
        words: of the group's command, for the message that names a teacher's command.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.known: dict[str, Material] = {}
        self.outputs: dict[object, object] = {}

    def of(self, config: Config) -> Material:
        """What a student needs.

        Raises:
            UserError: the accelerator, the data or the teacher is not to be had.
        """
        needs: list[object] = [config.stage, config.data, config.model.shape()]
        if config.stage == "distill":
            needs += [config.teacher, config.kd.method]
        if (key := repr(needs)) not in self.known:
            material = find_material(config, self.words)
            if material.teachers:
                live = needs_live_teacher(config)
                which = tuple(material.teachers), config.kd.needs_hidden, live
                if which not in self.outputs:
                    self.outputs[which] = with_outputs(material, config).teacher_outputs
                material = material._replace(teacher_outputs=self.outputs[which])
            self.known[key] = material
        return self.known[key]


def train_group(group: Group, watch: Callable[..., Callback] | None = None) -> list[Share | None]:
    """Train the students of one group, or continue where an earlier attempt ended.

    Args:
        group: the caller holds the locks of its members' folders.
        watch: makes a callback that shows the training of the group's jobs, whose students have
            these numbers.

    Returns:
        each member's share; None of one that has left before the end, as its ``dismiss`` wanted.

    Raises:
        UserError: the accelerator, the data or the teacher is not to be had.
    """
    set_up_logging(logging.INFO)
    planned, lead = group.planned, group.lead.config
    materials = Materials(group.lead.hydra.overrides.task)
    configs = [config_of(student, lead) for student in planned.students]
    of_students = [materials.of(config) for config in configs]
    of_jobs = [materials.of(job.config) for job in group.members]
    first = of_students[0]
    refuse_too_large(configs, first.data.task, first.accelerator.device)
    module = GroupModule(configs, of_students)
    lost: set[str] = set()
    loggers = [Loggers(job.config, job.directory, lost) for job in group.members]
    depends = [m.digest(c, []) for c, m in zip(configs, of_students, strict=True)]
    state = State(group.lead.study, planned.name, digest([in_common(lead), depends]))
    before = state.saved()
    for job in group.members:
        clear(job.directory)

    students = [planned.students.index(student_of(job.config)) for job in group.members]
    record = Record(state, list(zip(students, loggers, strict=True)), lead.overwrite)
    if dismiss := group.members[0].dismiss:
        module.dismiss = partial(dismiss, module, planned.students)
    device = first.accelerator.device
    methods = dict.fromkeys(config.kd.method for config in configs if is_taught(config))
    what = f"stage=distill kd={','.join(methods)}" if methods else f"stage={configs[0].stage}"
    log.info("%d students train together on %s: %s", len(configs), device, what)
    shown = watch(group.members, students) if watch else ShowProgress(every=1)
    train(lead, first.accelerator, module, [record, shown], before)
    if dismiss:
        dismiss(module, planned.students)  # of an earlier attempt it may not know yet
    said = f"trained together with {len(configs) - 1} other students, on {device}"
    return [
        Share(material, partial(report_training, share_of(module, student, of_run), said))
        if student not in module.dismissed
        else None
        for material, student, of_run in zip(of_jobs, students, loggers, strict=True)
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
