"""The jobs of a sweep: checked, trained together where they can be, then a line for each.

Imported when Hydra starts, so nothing heavy is imported before a sweep runs.
"""

import contextlib
import logging
import resource
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from kd._startup import importing
from kd.config.messages import explain, is_disk_full, is_out_of_memory
from kd.config.schema import Config, relevant
from kd.config.undo import keep
from kd.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from kd.sweeps.grouping import Group
    from kd.training.fit import Share


@dataclass
class Job:
    """One run of the sweep and what became of it."""

    config: Config
    hydra: DictConfig  # the node of that name that Hydra composed
    name: str  # of its folder, below its study
    directory: Path
    share: "Share | None" = None  # of a group's training
    apart: str = ""  # why it trains apart from others
    lock: Any = None  # of its run's folder, while its group trains
    outcome: Any = None  # a kd.training.run.Outcome, once it is complete
    failure: Exception | None = None
    waits: bool = False  # it failed for want of memory or of the folder, and may go on later

    def put_off(self, error: Exception) -> None:
        """Fail the job for now: what is trained of its group is kept."""
        self.failure, self.waits = error, True

    @property
    def study(self) -> Path:
        """The folder of its study."""
        return self.directory.parents[1]

    @property
    def error(self) -> str | None:
        """Why it failed, in a line; None if it did not."""
        if self.failure is None:
            return None
        return explain(self.failure) or f"{type(self.failure).__name__}: {self.failure}"

    @property
    def accuracy(self) -> float:
        """The test accuracy of the complete run, in [0, 1]."""
        return self.outcome.metrics["test/acc"]


def launch(wanted: Sequence[Job]) -> None:
    """Run all jobs, then print the table of their test accuracies.

    A job that fails does not stop the others. Afterwards every job has its ``outcome``.

    Raises:
        UserError: the jobs do not go together, none of them can be trained, or one failed.
    """
    from rich.console import Console

    from kd.sweeps.table import tables

    started = time.perf_counter()
    distinct = one_per_folder(wanted)
    jobs = list(distinct.values())
    console = Console(highlight=False, soft_wrap=True)
    run_jobs(jobs, console)
    for job in wanted:
        job.outcome = distinct[job.directory].outcome

    for table in tables(jobs):
        # A wide table runs over the terminal's edge rather than losing its figures.
        console.width = max(console.width, 15 * len(table.columns))
        console.print(table)
    elapsed = rounded(time.perf_counter() - started)
    failed = [job for job in jobs if job.error]
    console.print(f"{len(jobs) - len(failed)} of {len(jobs)} runs complete, {elapsed}")
    for study in sorted({f"{job.config.output_dir}/{job.config.study}" for job in jobs}):
        console.print(
            f"results: {study}/results.csv  (to look at it: tensorboard --logdir {study})"
        )
    if failed:
        names = ", ".join(job.name for job in failed)
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed: {names}; the lines above say why, and "
            "the train.log of each that had begun"
        )


def run_jobs(jobs: Sequence[Job], console: "Console") -> None:
    """Run the jobs in their order; a group trains when the first of its jobs has its turn."""
    with importing():
        from kd.sweeps import plan
        from kd.training.logging import set_up_logging
        from kd.training.results import write_results
        from kd.training.run_folder import has_runs

    set_up_logging(logging.INFO)
    allow_many_files()
    studies = {job.study for job in jobs}
    for study in studies:
        plan.tidy(study)
    groups = form_groups(jobs, console)
    group_at = {min(group.members): group for group in groups}
    spent: list[float] = []  # seconds of each run that trained alone
    try:
        for number, job in enumerate(jobs, 1):
            if number - 1 in group_at:
                train_together(group_at[number - 1], jobs, console)
            before = time.perf_counter()
            finish_job(job)
            if job.apart and not job.error:
                spent.append(time.perf_counter() - before)
            left = sum(bool(later.apart) for later in jobs[number:])
            said = f"[{number}/{len(jobs)}] {job.name}  {outcome_of(job, spent, left)}"
            console.print(said, markup=False)
    finally:
        for job in jobs:
            if job.lock:
                job.lock.release()
        for study in filter(has_runs, studies):
            write_results(study)
    for group in groups:
        study = jobs[group.lead].study
        settled = [job.directory for job in jobs if not job.waits]
        if plan.ended(study, group.planned, settled):
            plan.replace(study, [group.planned], [])


def outcome_of(job: Job, spent: Sequence[float], left: int) -> str:
    """What became of a job, in half a line.

    Args:
        job: which has had its turn.
        spent: seconds of each run so far that trained alone.
        left: how many of these are to come.
    """
    if job.error:
        return f"FAILED: {job.error}"
    said = f"test accuracy {job.accuracy:.4f}"
    if job.outcome.skipped:
        return f"{said}  complete already, skipped"
    if not job.apart:
        return said
    return f"{said}  {spent[-1]:.1f} s, {rounded(sum(spent) / len(spent) * left)} left"


def form_groups(jobs: Sequence[Job], console: "Console") -> list["Group"]:
    """Decide which jobs train together, and list the groups in their study's plan.

    Raises:
        UserError: no job can be trained, or another process trains one.
    """
    from kd.sweeps import grouping, plan
    from kd.training.run_folder import hold, is_complete
    from kd.training.unfinished import below_study

    missing = {
        index
        for index, job in enumerate(jobs)
        if job.config.overwrite or not is_complete(job.directory)
    }
    missing -= refuse_untrainable(jobs, missing)
    for index in missing:
        hold(jobs[index].directory).release()
    studies = {jobs[index].study for index in missing}
    earlier = [(study, planned) for study in studies for planned in plan.read(study)]
    configs, directories = [job.config for job in jobs], [job.directory for job in jobs]
    groups, apart = grouping.plan_groups(configs, directories, missing, earlier)
    anew = {below_study(directories[index]) for index in missing if configs[index].overwrite}
    for study in studies:
        old = [group for of, group in earlier if of == study and anew & set(group.runs)]
        mine = [group.planned for group in groups if jobs[group.lead].study == study]
        plan.replace(study, old, mine)
    for index, reason in apart.items():
        jobs[index].apart = reason
    reasons = Counter(apart.values()) if len(missing) > 1 else {}
    for reason, count in reasons.items():
        console.print(f"{count} of {len(jobs)} runs train alone: {reason}", markup=False)
    return groups


def finish_job(job: Job) -> None:
    """Bring a job to its end: all of it, or what is left after its group's training.

    Raises:
        UserError: no room is left to write.
    """
    from kd.training.run import execute

    if job.failure is None:
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
    if job.lock:
        job.lock.release()


def train_together(group: "Group", jobs: Sequence[Job], console: "Console") -> None:
    """Train a group and give each job its share; where that fails, say why they have none.

    Raises:
        OSError: no room is left to write.
        UserError: the memory has no room for all of the sweep.
    """
    from kd.sweeps import plan
    from kd.sweeps.group import train_group

    members = lock_members([jobs[index] for index in group.members])
    if not members:
        return
    keep()
    lead = jobs[group.lead]
    plan.replace(lead.study, [], [group.planned])
    try:
        shares = train_group(
            group.planned,
            lead.config,
            [job.config for job in members],
            [job.directory for job in members],
            list(lead.hydra.overrides.task),
        )
    except Exception as error:
        if is_disk_full(error):
            raise
        if is_out_of_memory(error):  # one by one they would take hours: say how to go on
            failed = out_of_memory(error, members, group)
            if len(members) == len(jobs):
                raise failed from error
            for job in members:
                job.put_off(failed)
            return
        let_train_apart(members, error)
        console.print(f"{len(members)} runs train alone: {members[0].apart}", markup=False)
        return
    for job, share in zip(members, shares, strict=True):
        job.share = share


def lock_members(jobs: Iterable[Job]) -> list[Job]:
    """The jobs of a group that are still to be trained, their folders locked."""
    from kd.training.run_folder import Busy, hold, is_complete

    members = []
    for job in jobs:
        try:
            lock = hold(job.directory)
        except Busy as error:
            job.put_off(error)
            continue
        if is_complete(job.directory) and not job.config.overwrite:
            lock.release()  # another process has been faster: the run is skipped
            continue
        job.lock = lock
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
        job.lock.release()
        job.lock = None


def one_per_folder(jobs: Sequence[Job]) -> dict[Path, Job]:
    """The jobs by their run's folder: settings that a stage does not use make no other run.

    Raises:
        UserError: two jobs of different settings have one folder.
    """
    found: dict[Path, Job] = {}
    for job in jobs:
        first = found.setdefault(job.directory, job)
        here, there = relevant(job.config), relevant(first.config)
        if differing := [key for key in here if here[key] != there.get(key)]:
            raise UserError(
                f"{job.name}: two jobs of this sweep have this folder and differ in "
                f"{', '.join(differing)}; give study=NAME to each, in a command of its own"
            )
    return found


def refuse_untrainable(jobs: Sequence[Job], missing: Collection[int]) -> set[int]:
    """Fail the jobs whose accelerator, data or teacher is not to be had, before any begins.

    Returns:
        which these are.

    Raises:
        UserError: it is all of the sweep.
    """
    from kd.training.material import find_material

    deciding = ("stage", "data.", "teacher.", "model.", "trainer.accelerator", "kd.method")
    errors: dict[str, Any] = {}
    refused = set()
    for index in sorted(missing):
        job = jobs[index]
        settings = {k: v for k, v in relevant(job.config).items() if k.startswith(deciding)}
        key = f"{job.study} {settings}"
        if key not in errors:
            errors[key] = None
            try:
                find_material(job.config, list(job.hydra.overrides.task))
            except Exception as error:
                errors[key] = error
        if (found := errors[key]) is not None:
            job.failure = found
            refused.add(index)
    if len(refused) == len(jobs):
        raise next(iter(errors.values()))
    return refused


def out_of_memory(error: Exception, members: Sequence[Job], group: "Group") -> UserError:
    """What to say of a group that the memory has no room for, and how to go on."""
    from kd.training.unfinished import has_state

    what = f"out of memory in a group of {len(members)} students"
    if isinstance(error, UserError):
        what = str(error)
    size = f"trainer.group_mb (it is {members[0].config.trainer.group_mb})"
    how = f"give a smaller {size}"
    if has_state(members[0].study, group.planned.name):  # which has its size
        how = f"free some and give the same command, or overwrite=true with a smaller {size}"
    return UserError(f"{what}; {how}")


def allow_many_files() -> None:
    """Raise the limit of open files: each run of a group has a lock."""
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def rounded(seconds: float) -> timedelta:
    """A time to the second, shown as 0:02:03."""
    return timedelta(seconds=round(seconds))
