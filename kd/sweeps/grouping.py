"""Which jobs of a sweep train together: those that differ in settings of a student's own alone."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from kd.config.schema import NOT_RELEVANT, Config, flatten
from kd.data.module import epoch_of
from kd.data.pool import task_of
from kd.sweeps import choice
from kd.sweeps.job_configs import Job
from kd.sweeps.layout import share_of, width_of
from kd.sweeps.plan import Planned
from kd.sweeps.students import Student, config_of, in_common, student_of
from kd.training.material import choose_accelerator
from kd.training.memory import bytes_of_each, room_for_group, student_bytes
from kd.training.unfinished import digest, has_state, version

# A group's hidden layers are padded to the widest, which costs a tenth of what real units cost.
WIDEST = 8  # times the narrowest


class Group(NamedTuple):
    """Jobs that train together."""

    planned: Planned
    lead: Job  # has all settings which they share
    members: list[Job]  # that are to be trained


def plan_groups(
    jobs: Sequence[Job], missing: Collection[Job], earlier: Mapping[Path, Iterable[Planned]]
) -> tuple[list[Group], dict[Job, str]]:
    """Decide which jobs of a sweep train together.

    Groups that an earlier attempt began are taken up as they were; then the jobs that are left make
    groups that fit in ``trainer.group_mb``, or in a GPU's memory.

    Args:
        jobs: all of the sweep.
        missing: those that are to be trained.
        earlier: by study, the plan of each group that is unfinished.

    Returns:
        the groups, and why each of the other missing jobs trains apart.
    """
    groups: list[Group] = []
    apart: dict[Job, str] = {}
    kin: dict[str, list[Job]] = {}
    for job in filter(missing.__contains__, jobs):
        kin.setdefault(_shared(job.config), []).append(job)
    for left in kin.values():
        lead = left[0]
        if reason := _why_apart(lead.config):
            apart |= dict.fromkeys(left, reason)
            continue
        for planned in earlier.get(lead.study, ()):
            members = [job for job in left if job.name in planned.runs]
            if members and _usable(planned, lead):
                groups.append(Group(planned, lead, members))
                left = [job for job in left if job not in members]
        if left and (reason := _why_slower(left, lead)):
            apart |= dict.fromkeys(left, reason)
            continue
        fresh, lonely = _fresh(left, lead)
        groups += fresh
        apart |= lonely
    return groups, apart


def why_several(groups: Sequence[Group]) -> str | None:
    """In what the students of several groups differ that those of one must have in common.

    None where they could have been one group, but for its size.
    """
    leads = [group.lead.config for group in groups]
    shared = [in_common(config) for config in leads]
    keys = dict.fromkeys(key for settings in shared for key in settings)
    found = [key for key in keys if len({repr(settings.get(key)) for settings in shared}) > 1]
    if not found and len(set(map(epoch_of, leads))) > 1:
        found = ["the number of images per epoch"]
    widths = [
        width_of(config_of(student, group.lead.config))
        for group in groups
        for student in group.planned.students
    ]
    if not found and widths and max(widths) > WIDEST * min(widths):
        found = [f"model.hidden by a factor over {WIDEST}"]
    return ", ".join(found) or None


def _why_apart(config: Config) -> str | None:
    """Why the runs of these settings train apart; None where they may train together."""
    if config.trainer.stack == "never":
        return "trainer.stack=never"
    if config.trainer.precision != "32":
        return f"trainer.precision={config.trainer.precision} is of students that train alone"
    if config.callbacks:
        return f"callbacks=[{','.join(config.callbacks)}] act on the training of one network"
    return "keep_epochs=true saves more than a group does" if config.keep_epochs else None


def _why_slower(jobs: Sequence[Job], lead: Job) -> str | None:
    """Why jobs that may train together are not to; None where they are, or cannot anyhow."""
    config = lead.config
    count = len({student_of(job.config) for job in jobs})
    if config.model.stacks or count == 1:
        return None
    task, device = task_of(config.data), choose_accelerator(config.trainer.accelerator).device
    fit = room_for_group(config, device) // student_bytes(config, task)
    if fit < 2:
        return None
    return choice.why_apart(config, task, device, lead.study, min(count, fit))


def halves(group: Group) -> list[Group]:
    """A group as two of half its students each, in their order, but for one that nobody wants."""
    planned, found = group.planned, []
    middle = len(planned.students) // 2
    for students in (planned.students[:middle], planned.students[middle:]):
        members = [job for job in group.members if student_of(job.config) in students]
        if members:
            runs = tuple(job.name for job in members)
            part = replace(planned, students=students, runs=runs)
            found.append(Group(part, group.lead, members))
    return found


def _usable(planned: Planned, lead: Job) -> bool:
    """Whether a group of an earlier attempt is one that these settings would make now."""
    config = lead.config
    same = (planned.common, planned.version) == (common_digest(config), version())
    size = planned.group_mb == config.trainer.group_mb
    return same and (size or has_state(lead.study, planned.name)) and not config.overwrite


def _fresh(jobs: Sequence[Job], lead: Job) -> tuple[list[Group], dict[Job, str]]:
    """Groups of jobs that may train together and have not begun, and why others train apart."""
    groups, apart = [], {}
    by_student: dict[Student, list[Job]] = {}
    for job in jobs:
        by_student.setdefault(student_of(job.config), []).append(job)
    configs = {student: config_of(student, lead.config) for student in by_student}
    size = lead.config.trainer.group_mb
    for alike in _alike(configs):
        for students in _parts(alike, lead.config):
            members = [job for student in students for job in by_student[student]]
            if len(members) > 1:
                shared, runs = common_digest(lead.config), tuple(job.name for job in members)
                planned = Planned(shared, size, students, runs, version())
                groups.append(Group(planned, lead, members))
            elif len(by_student) == 1:
                apart[members[0]] = "no other job has its kind of network, data and batch size"
            elif len(alike) == 1:
                apart[members[0]] = "no other job's model.hidden is near enough to its own"
            else:
                apart[members[0]] = f"{_limit(lead.config)} has no room for two"
    return groups, apart


def _limit(config: Config) -> str:
    """What limits the size of a group."""
    if choose_accelerator(config.trainer.accelerator).device.type == "cuda":
        return "the GPU's free memory"
    return f"trainer.group_mb={config.trainer.group_mb}"


def _alike(configs: Mapping[Student, Config]) -> Iterator[dict[Student, Config]]:
    """Cut students, the narrowest first, where widths are too far apart to train together."""
    found: dict[Student, Config] = {}
    narrowest = 0
    for student in sorted(configs, key=lambda s: (width_of(configs[s]), *_place(configs[s]), s)):
        width = width_of(configs[student])
        if found and width > WIDEST * narrowest:
            yield found
            found = {}
        narrowest = narrowest if found else width
        found[student] = configs[student]
    if found:
        yield found


def _parts(configs: Mapping[Student, Config], lead: Config) -> Iterator[tuple[Student, ...]]:
    """Cut students into groups that fit in memory, as few as possible and about equally large."""
    sizes = bytes_of_each(configs.values(), task_of(lead.data))
    room = room_for_group(lead, choose_accelerator(lead.trainer.accelerator).device)
    whole, parts = sum(sizes), -(-sum(sizes) // room)
    middles = (end - each / 2 for end, each in zip(accumulate(sizes), sizes, strict=True))
    numbered = zip((int(middle * parts / whole) for middle in middles), configs, strict=True)
    for _, part in groupby(numbered, key=itemgetter(0)):
        yield tuple(sorted((s for _, s in part), key=lambda s: (*_place(configs[s]), s)))


def _place(config: Config) -> tuple[Any, ...]:
    """Where a student stands: those that share images and dropout masks stand side by side."""
    transfer = config.data.train_size or 0, config.data.omit, config.data.label_noise
    return config.seed, *transfer, share_of(config), -width_of(config)


def _shared(config: Config) -> str:
    """What kin share, as JSON; settings that no result depends on are part of it."""
    others = {key: value for key, value in flatten(config).items() if key in NOT_RELEVANT}
    return json.dumps([in_common(config) | others, epoch_of(config)])


def common_digest(config: Config) -> str:
    """What stands in a plan for all that a group's students share."""
    return digest([in_common(config), epoch_of(config)])
