"""Which jobs of a sweep train together: those that differ in sweepable settings alone."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kd.config.schema import NOT_RELEVANT, Config, flatten, relevant
from kd.data.pool import task_of
from kd.fields import sweepable_names
from kd.sweeps.job_configs import Job
from kd.sweeps.plan import Cell, Planned
from kd.training.memory import student_bytes
from kd.training.unfinished import digest, has_state, version


class Group(NamedTuple):
    """Jobs that train together."""

    planned: Planned
    lead: Job  # has all settings which they share
    members: list[Job]  # that are to be trained


def cell_of(config: Config, lead: Config) -> Cell:
    """The sweepable numbers of a student's method, as (name, value); none without a teacher.

    At alpha = 1 the others play no part. There they are the defaults, so that jobs which differ in
    them alone share one student, and have its results to the last bit. The student alone is that
    student too.

    Args:
        config: of the student.
        lead: of its group.
    """
    if lead.stage != "distill":
        return ()
    kd = config.kd if is_taught(config) else type(lead.kd)(alpha=1.0)
    return tuple((name, getattr(kd, name)) for name in sweepable_names(kd))


def refuse_unhandled(configs: Iterable[Config], lead: Config, handled: Collection[str]) -> None:
    """Make sure that a group's training tells its students apart by every setting they differ in.

    Args:
        configs: of the group's jobs.
        lead: of the group.
        handled: the settings that are stacked or scheduled.

    Raises:
        AssertionError: one is neither; the group would train it with one value for all.
    """
    shared = relevant(lead)
    for config in configs:
        for key, value in relevant(config).items():
            if key == "stage" or (key.startswith(("kd.", "teacher.")) and not is_taught(config)):
                continue
            assert value == shared[key] or key in handled, f"{key} is not trained per student"


def is_taught(config: Config) -> bool:
    """Whether a teacher plays a part: not at alpha = 1."""
    return config.stage == "distill" and config.kd.alpha < 1


def plan_groups(
    jobs: Sequence[Job], missing: Collection[Job], earlier: Mapping[Path, Iterable[Planned]]
) -> tuple[list[Group], dict[Job, str]]:
    """Decide which jobs of a sweep train together.

    Groups that an earlier attempt began are taken up as they were; then the jobs that are left make
    groups, each the full grid of some seeds and cells that fits in ``trainer.group_mb``.

    Args:
        jobs: all of the sweep.
        missing: those that are to be trained.
        earlier: by study, the plan of each group that is unfinished.

    Returns:
        the groups, and why each of the other missing jobs trains apart.
    """
    groups: list[Group] = []
    apart: dict[Job, str] = {}
    begun = {planned.common for listed in earlier.values() for planned in listed}
    for kin in _kin(jobs, missing, begun):
        lead, left = kin[0], [job for job in kin if job in missing]
        if reason := _why_apart(lead.config):
            apart |= dict.fromkeys(left, reason)
            continue
        for planned in earlier.get(lead.study, ()):
            members = [job for job in left if job.name in planned.runs]
            if members and _usable(planned, lead):
                groups.append(Group(planned, lead, members))
                left = [job for job in left if job not in members]
        fresh, lonely = _fresh(left, lead)
        groups += fresh
        apart |= lonely
    return groups, apart


def _why_apart(config: Config) -> str | None:
    """Why the runs of these settings train apart; None where they may train together."""
    # Convolutions in a stack are grouped convolutions, which take a CPU longer than one network
    # after another. benchmarks/sweep.py teachers measures it.
    if not config.model.stacks:
        return f"model={config.model.name} cannot be stacked, only an MLP of one hidden layer can"
    if config.trainer.patience is not None:
        return "trainer.patience stops each student by itself"
    if config.trainer.precision != "32":
        return f"trainer.precision={config.trainer.precision} is of students that train alone"
    if config.callbacks:
        return f"callbacks=[{','.join(config.callbacks)}] act on the training of one network"
    return "keep_epochs=true saves more than a group does" if config.keep_epochs else None


def _usable(planned: Planned, lead: Job) -> bool:
    """Whether a group of an earlier attempt is one that these settings would make now."""
    config = lead.config
    same = (planned.common, planned.version) == (common_digest(config), version())
    size = planned.group_mb == config.trainer.group_mb
    return same and (size or has_state(lead.study, planned.name)) and not config.overwrite


def _fresh(jobs: Iterable[Job], lead: Job) -> tuple[list[Group], dict[Job, str]]:
    """Groups of jobs that may train together and have not begun, and why others train apart."""
    groups, apart, config = [], {}, lead.config
    by_student: dict[tuple[int, Cell], list[Job]] = {}
    for job in jobs:
        by_student.setdefault((job.config.seed, cell_of(job.config, config)), []).append(job)
    limit = config.trainer.group_mb * 2**20
    if not by_student:
        return [], {}
    each = student_bytes(config, task_of(config.data))
    for seeds, cells in _grids(by_student, each, limit):
        members = [job for seed in seeds for cell in cells for job in by_student[seed, cell]]
        if len(members) > 1:
            shared, runs = common_digest(config), tuple(job.name for job in members)
            size = config.trainer.group_mb
            planned = Planned(shared, size, tuple(seeds), tuple(cells), runs, version())
            groups.append(Group(planned, lead, members))
        elif len(by_student) == 1:
            apart[members[0]] = "no other job differs in seed and numbers of kd alone"
        else:
            apart[members[0]] = f"trainer.group_mb={config.trainer.group_mb} has no room for two"
    return groups, apart


def _kin(jobs: Iterable[Job], missing: Collection[Job], begun: Collection[str]) -> list[list[Job]]:
    """The jobs that may train together, the first of each lot being able to lead it.

    Students alone join the first distillation that shares their settings, if it has to be trained:
    there they are what it has at alpha = 1, to the last bit.
    """
    kin: dict[str, list[Job]] = {}
    for job in jobs:
        kin.setdefault(_shared(job.config), []).append(job)
    hosts: dict[str, list[Job]] = {}
    for some in kin.values():
        lead = some[0].config
        if lead.stage == "distill" and (
            common_digest(lead) in begun or any(job in missing for job in some)
        ):
            hosts.setdefault(_shared(lead, ("stage", "kd.", "teacher.")), some)
    for key, some in list(kin.items()):
        if some[0].config.stage == "student" and (
            host := hosts.get(_shared(some[0].config, ("stage", "kd.", "teacher.")))
        ):
            host += kin.pop(key)
    return list(kin.values())


def _shared(config: Config, but: tuple[str, ...] = ()) -> str:
    """The settings that kin share, as JSON, without the keys that begin with one of ``but``.

    Settings that no result depends on are among them.
    """
    others = {key: value for key, value in flatten(config).items() if key in NOT_RELEVANT}
    settings = in_common(config) | others
    return json.dumps({key: v for key, v in settings.items() if not key.startswith(but)})


def in_common(config: Config) -> dict[str, Any]:
    """The settings that students must have in common to train together."""
    own = sweepable_names(config)
    return {key: value for key, value in relevant(config).items() if key not in own}


def common_digest(config: Config) -> str:
    """What stands for :func:`in_common` in a plan."""
    return digest(in_common(config))


def _grids(
    jobs: Iterable[tuple[int, Cell]], each: int, limit: int
) -> Iterator[tuple[Sequence[int], Sequence[Cell]]]:
    """Cover the (seed, cell) pairs with full grids of at most ``limit`` bytes, ``each`` a pair."""
    cells_of: dict[int, list[Cell]] = {}
    for seed, cell in jobs:
        cells_of.setdefault(seed, []).append(cell)
    seeds_of: dict[tuple[Cell, ...], list[int]] = {}
    for seed, cells in cells_of.items():
        seeds_of.setdefault(tuple(sorted(cells, key=repr)), []).append(seed)
    most = max(1, limit // each)
    for cells, seeds in seeds_of.items():
        for some_cells in _parts(cells, most):
            for some_seeds in _parts(seeds, max(1, most // len(some_cells))):
                yield some_seeds, some_cells


def _parts(items: Sequence, most: int) -> Iterator[Sequence]:
    """Split into as few parts as possible, of about equal length."""
    count = -(-len(items) // most)
    for part in range(count):
        yield items[part * len(items) // count : (part + 1) * len(items) // count]
