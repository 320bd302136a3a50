"""The jobs of a sweep: checked, trained together where they can be, then a line for each.

torch and Lightning are imported when a job is to be trained.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console

from kd._startup import importing, lazy
from kd._torch import torch
from kd.config.messages import explain, is_disk_full, is_out_of_memory
from kd.config.schema import relevant
from kd.config.showing import print_config
from kd.config.undo import keep
from kd.data.pool import remember
from kd.errors import MissingTeacher, UserError
from kd.sweeps import plan
from kd.sweeps.answer import answers
from kd.sweeps.board import Board
from kd.sweeps.job_configs import Job
from kd.sweeps.table import rounded, tables
from kd.training import run_folder
from kd.training.logging import set_up_logging
from kd.training.run import execute
from kd.training.unfinished import has_state

if TYPE_CHECKING:
    from kd.sweeps import grouping
else:
    grouping = lazy("kd.sweeps.grouping")

MOST_CAUSES = 3  # that the last line tells

# Gives all jobs of a sweep their turn, and returns the groups that others were cut into.
Turns: TypeAlias = (
    "Callable[[Sequence[Job], Iterable[grouping.Group], Board], list[grouping.Group]]"
)


def launch(wanted: Sequence[Job], turns: Turns | None = None) -> None:
    """Run all jobs, then print the table of their test accuracies.

    A job that fails does not stop the others. Afterwards every job has its ``outcome``.

    Args:
        wanted: all of the sweep.
        turns: trains them; by default one group or job after another, in this process.

    Raises:
        UserError: none of them can be trained, or one failed.
    """
    started = time.perf_counter()
    distinct = {job.directory: job for job in reversed(wanted)}
    jobs = [job for job in wanted if distinct[job.directory] is job]
    console = Console(highlight=False, soft_wrap=True)
    print_config(jobs[0].config)
    run_jobs(jobs, console, turns)
    for job in wanted:
        job.outcome = distinct[job.directory].outcome

    for table in tables(jobs, console.width):
        console.print(table)
    elapsed = rounded(time.perf_counter() - started)
    failed = [job for job in jobs if job.error]
    console.print(f"{len(jobs) - len(failed)} of {len(jobs)} runs complete, {elapsed}")
    for study in sorted({f"{job.config.output_dir}/{job.config.study}" for job in jobs}):
        drawn = f"  (to look at it: tensorboard --logdir {study})"
        if not any("tensorboard" in job.config.logger for job in jobs):
            drawn = ""
        console.print(f"results: {study}/results.csv{drawn}")
    for line in answers(jobs):
        console.print(line, markup=False)
    if failed:
        listed = list_causes(Counter(str(job.error) for job in failed))
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed: {listed}; the lines above name each, and "
            "the train.log of each that had begun says more"
        )


def list_causes(causes: Counter[str]) -> str:
    """The commonest causes of failure, each with the number of its runs."""
    return "; ".join(f"{why} ({count} runs)" for why, count in causes.most_common(MOST_CAUSES))


def run_jobs(
    jobs: Sequence[Job],
    console: Console,
    turns: Turns | None = None,
    board: Board | None = None,
) -> None:
    """Run the jobs in their order; a group trains when the first of its jobs has its turn.

    Args:
        jobs: in folders of their own.
        console: to say things on.
        turns: see :func:`launch`.
        board: is told how each fares; by default one that shows all of them.
    """
    missing = {j for j in jobs if j.config.overwrite or not run_folder.is_complete(j.directory)}
    if missing:  # else neither torch nor Lightning is needed
        with importing():
            importlib.import_module("kd.sweeps.group")
    set_up_logging(logging.INFO)
    allow_many_files()
    studies = {job.study for job in jobs}
    for study in studies:
        plan.tidy(study)
    groups = form_groups(jobs, missing, console) if missing else []
    try:
        with board or Board(jobs, console) as shown:
            groups += (turns or train_and_finish)(jobs, groups, shown)
    finally:
        for job in jobs:
            job.unlock()
        for study in filter(run_folder.has_runs, studies):
            remember([job.config.data for job in jobs if job.study == study], study)
            run_folder.write_results(study)
    for group in groups:
        settled = [job.directory for job in jobs if not job.waits]
        if plan.ended(group.lead.study, group.planned, settled):
            plan.replace(group.lead.study, [group.planned], [])


def train_and_finish(
    jobs: Sequence[Job], groups: Iterable[grouping.Group], board: Board
) -> list[grouping.Group]:
    """Give each job its turn, and say what became of it.

    Returns:
        the groups that others were cut into.
    """
    group_of = {job: group for group in groups for job in group.members}
    begun: set[Job] = set()
    spent: list[float] = []  # seconds of each run that trained alone
    parts: list[grouping.Group] = []
    board.groups = len({id(group) for group in group_of.values()})
    for number, job in enumerate(jobs, 1):
        if job in group_of and job not in begun:
            begun.update(group_of[job].members)
            board.group += 1
            parts += train_together(group_of[job], jobs, board)
        before = time.perf_counter()
        finish_job(job)
        if job.apart and not job.error:
            spent.append(time.perf_counter() - before)
        left = 0 if board.drawn else sum(bool(later.apart) for later in jobs[number:])
        said = f"[{number}/{len(jobs)}] {job.name}  {outcome_of(job, spent, left)}"
        board.settle(job, number, said)
    return parts


def outcome_of(job: Job, spent: Sequence[float], left: int) -> str:
    """What became of a job, in half a line.

    Args:
        job: which has had its turn.
        spent: seconds of each run so far that trained alone.
        left: how many of these are to come; 0 also where a bar counts down.
    """
    if job.error:
        return f"FAILED: {job.error}"
    if job.dismissed:
        return "left early"
    said = f"test accuracy {job.accuracy:.4f}"
    if job.outcome.skipped:
        return f"{said}  complete already, skipped"
    if not job.apart:
        return said
    said = f"{said}  {spent[-1]:.1f} s"
    return f"{said}, {rounded(sum(spent) / len(spent) * left)} left" if left else said


def form_groups(jobs: Sequence[Job], missing: set[Job], console: Console) -> list[grouping.Group]:
    """Decide which jobs train together, and list the groups in their study's plan.

    Raises:
        UserError: no job can be trained, or another process trains one.
    """
    refuse_untrainable(jobs, missing)
    missing = {job for job in missing if not job.failure}
    for job in missing:
        if not job.packed:
            run_folder.hold(job.directory).release()
    earlier = {study: plan.read(study) for study in {job.study for job in missing}}
    groups, apart = grouping.plan_groups(jobs, missing, earlier)
    for study, begun in earlier.items():
        anew = {job.name for job in missing if job.config.overwrite and job.study == study}
        old = [planned for planned in begun if anew & set(planned.runs)]
        plan.replace(study, old, [g.planned for g in groups if g.lead.study == study])
    for job, reason in apart.items():
        job.apart = reason
    if differing := grouping.why_several(groups):
        said = f"{len(groups)} groups: their runs differ in {differing}"
        console.print(said, markup=False)
    reasons = Counter(apart.values()) if len(missing) > 1 else {}
    for reason, count in reasons.items():
        console.print(f"{count} of {len(jobs)} runs train alone: {reason}", markup=False)
    return groups


def finish_job(job: Job) -> None:
    """Bring a job to its end: all of it, or what is left after its group's training.

    Raises:
        UserError: no room is left to write.
    """
    if job.failure is None and not job.dismissed:
        keep()
        note = f"trains alone: {job.apart}" if job.apart else ""
        try:
            job.outcome = execute(
                job.config, job.directory, job.hydra, job.share, note=note, quiet=True
            )
        except Exception as error:
            job.failure = error
            if is_disk_full(error):
                raise UserError(job.error) from error
    job.unlock()


def train_together(
    group: grouping.Group, jobs: Sequence[Job], board: Board, halve: bool = True
) -> list[grouping.Group]:
    """Train a group and give each job its share; where that fails, say why they have none.

    Args:
        group: to train.
        jobs: all of the sweep.
        board: is told of each epoch.
        halve: trains two halves, one after the other, where a GPU's memory is too small for all.

    Returns:
        these halves, if it came to them.

    Raises:
        OSError: no room is left to write.
        UserError: the memory has no room for all of the sweep.
    """
    from kd.sweeps.group import train_group
    from kd.sweeps.watch import Watch

    members = lock_members(group.members)
    if not members:
        return []
    keep()
    plan.replace(group.lead.study, [], [group.planned])
    parts: list[grouping.Group] = []
    try:
        shares = train_group(group._replace(members=members), partial(Watch, board))
    except Exception as error:
        if is_disk_full(error):
            raise
        if halve and isinstance(error, torch.OutOfMemoryError):
            parts = grouping.halves(group._replace(members=members))
        elif is_out_of_memory(error):  # one by one they would take hours: say what to do
            failed = out_of_memory(error, members, group)
            if len(members) == len(jobs):
                raise failed from error
            for job in members:
                job.put_off(failed)
        else:
            let_train_apart(members, error)
            board.say(f"{len(members)} runs train alone: {members[0].apart}")
    else:
        for job, share in zip(members, shares, strict=True):
            job.share, job.dismissed = share, share is None
    if parts:  # here the error no longer holds the memory
        train_parts(group, members, parts, jobs, board)
    return parts


def train_parts(
    group: grouping.Group,
    members: Sequence[Job],
    parts: Sequence[grouping.Group],
    jobs: Sequence[Job],
    board: Board,
) -> None:
    """Train the parts of a group, whose members are locked, in its place."""
    for job in members:
        job.unlock()
    torch.cuda.empty_cache()
    plan.replace(group.lead.study, [group.planned], [part.planned for part in parts])
    sizes = " and ".join(str(len(part.planned.students)) for part in parts)
    board.say(f"out of memory: {len(members)} runs train in groups of {sizes}")
    for part in parts:
        train_together(part, jobs, board, halve=False)


def lock_members(jobs: Iterable[Job]) -> list[Job]:
    """The jobs of a group that are still to be trained, their folders locked."""
    members = [job for job in jobs if job.packed]
    for job in (job for job in jobs if not job.packed):
        try:
            job.lock = run_folder.hold(job.directory)
        except run_folder.Busy as error:
            job.put_off(error)
            continue
        if run_folder.is_complete(job.directory) and not job.config.overwrite:
            job.lock.release()  # another process has been faster: the run is skipped
        else:
            members.append(job)
    return members


def let_train_apart(members: Sequence[Job], error: Exception) -> None:
    """After a group's failure each job by itself meets the error, or does without the group."""
    reason = explain(error)
    if reason is None:  # a fault of ours, which no run's log would show
        traceback.print_exception(error)
        reason = f"{type(error).__name__}: {error}"
    for job in members:
        job.apart = f"the group of {len(members)} failed: {reason}"
        job.unlock()


def refuse_untrainable(jobs: Sequence[Job], missing: Collection[Job]) -> None:
    """Fail the jobs that lack accelerator, data, teacher, logger or callback, before any begins.

    Raises:
        UserError: a teacher is missing, or it is all of the sweep.
    """
    from kd.training.callbacks import make_callbacks
    from kd.training.loggers import Loggers
    from kd.training.material import find_material
    from kd.training.unpack import unpack_teachers

    deciding = (
        *("stage", "data.", "teacher.", "kd.method"),
        *("trainer.accelerator", "trainer.precision"),
    )
    errors: dict[str, Exception | None] = {}
    for job in filter(missing.__contains__, jobs):
        config = job.config
        settings = {k: v for k, v in relevant(config).items() if k.startswith(deciding)}
        key = f"{job.study} {settings} {config.model.shape()} {config.logger} {config.callbacks}"
        if key not in errors:
            errors[key] = None
            try:
                unpack_teachers(job.config)
                find_material(job.config, list(job.hydra.overrides.task))
                Loggers(job.config, job.directory)
                make_callbacks(job.config, job.directory)
            except MissingTeacher:  # said once, before the students alone have trained for hours
                raise
            except Exception as error:
                errors[key] = error
        job.failure = errors[key]
    if all(job.failure for job in jobs):
        raise next(filter(None, errors.values()))


def out_of_memory(error: Exception, members: Sequence[Job], group: grouping.Group) -> UserError:
    """What to say of a group that the memory has no room for, and what to do."""
    said = f"out of memory in a group of {len(members)} students"
    what = str(error) if isinstance(error, UserError) else said
    from kd.training.material import choose_accelerator

    trainer = members[0].config.trainer
    smaller = f"a smaller trainer.group_mb (it is {trainer.group_mb})"
    if choose_accelerator(trainer.accelerator).device.type == "cuda":  # halved before
        smaller = "hydra/launcher=basic, which trains one run after another"
    how = f"give {smaller}"
    if has_state(members[0].study, group.planned.name):  # which has its size
        how = f"free some and give the same command, or overwrite=true with {smaller}"
    return UserError(f"{what}; {how}")


def allow_many_files() -> None:
    """Raise the limit of open files: each run of a group has a lock."""
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
