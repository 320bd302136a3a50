"""The launcher of ``-m``: checks every job, trains together what can be, then one line a job.

Hydra finds it by the name of this folder; ``hydra/launcher=basic`` runs without it. Whatever is
imported at its top is paid at every start, so nothing heavy is.
"""

import contextlib
import logging
import resource
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from rich.console import Console

from kd import importing
from kd.config.messages import explain, is_disk_full, is_out_of_memory
from kd.config.schema import Config, UserError, relevant, validate
from kd.sweeps.job_configs import copying
from kd.sweeps.table import accuracy, tables

if TYPE_CHECKING:
    from kd.sweeps.grouping import Group


@dataclass
class Job:
    """One run of the sweep and what became of it."""

    cfg: DictConfig
    config: Config
    name: str
    directory: Path
    together: Any = None  # a kd.run.Together: its share of a group's training
    alone: str = ""  # why it has none
    lock: Any = None  # of its run's folder, while its group trains
    result: JobReturn | None = None
    waits: bool = False  # it failed for want of memory or of the folder, and may go on later

    def put_off(self, error: Exception) -> None:
        """Fail the job for now: what is trained of its group is kept."""
        self.result, self.waits = failure(error), True

    @property
    def study(self) -> Path:
        """The folder of its study."""
        return self.directory.parents[1]

    @property
    def error(self) -> str | None:
        """Why it failed, in a line; None if it did not."""
        if self.result is None or self.result.status != JobStatus.FAILED:
            return None
        cause = self.result._return_value  # the public property raises it instead
        return explain(cause) or f"{type(cause).__name__}: {cause}"


class SweepLauncher(BasicLauncher):
    """Runs the jobs, together where it can; a job that fails does not stop the others."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Have the sweeper's check of all jobs and :meth:`launch` compose each but once."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        loader = hydra_context.config_loader
        loader.load_sweep_config = copying(loader)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs, then print the table of their test accuracies.

        Raises:
            UserError: a job's settings are wrong (nothing has run then), or a job failed.
        """
        setup_globals()
        started = time.perf_counter()
        wanted = [
            self._compose(list(words), number)
            for number, words in enumerate(job_overrides, initial_job_idx)
        ]
        distinct = one_per_folder(wanted)
        jobs = list(distinct.values())
        console = Console(highlight=False, soft_wrap=True)
        self._run(jobs, console)

        for table in tables(jobs):
            # A wide table runs over the terminal's edge rather than losing its figures.
            console.width = max(console.width, 15 * len(table.columns))
            console.print(table)
        elapsed = clock(time.perf_counter() - started)
        failed = [job for job in jobs if job.error]
        console.print(f"{len(jobs) - len(failed)} of {len(jobs)} runs complete, {elapsed}")
        places = sorted({f"{job.config.output_dir}/{job.config.study}" for job in jobs})
        for place in places:
            console.print(
                f"results: {place}/results.csv  (to look at it: tensorboard --logdir {place})"
            )
        if failed:
            names = ", ".join(job.name for job in failed)
            raise UserError(
                f"{len(failed)} of {len(jobs)} runs failed: {names}; the lines above say why, and "
                "the train.log of each that had begun"
            )
        return [distinct[job.directory].result for job in wanted]

    def _compose(self, words: list[str], number: int) -> Job:
        """One job with its configuration, checked."""
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, words)
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        config = validate(cfg)
        if config.stage == "report":
            raise UserError("stage=report: reports one study at a time, without -m")
        name = str(cfg.hydra.sweep.subdir)
        cfg.hydra.sweep.subdir = name  # found once
        return Job(cfg, config, name, Path(str(cfg.hydra.sweep.dir), name).absolute())

    def _run(self, jobs: Sequence[Job], console: Console) -> None:
        """Run the jobs in their order; a group trains when the first of its jobs has its turn."""
        with importing():
            from kd.sweeps import unfinished
            from kd.training.logging import set_up_logging
            from kd.training.results import write_results
            from kd.training.run_folder import has_runs

        set_up_logging(logging.INFO)
        allow_many_files()
        studies = {job.study for job in jobs}
        for study in studies:
            unfinished.tidy(study)
        groups = self._plan(jobs, console)
        group_at = {min(group.members): group for group in groups}
        spent, trained = 0.0, 0
        try:
            for number, job in enumerate(jobs, 1):
                if number - 1 in group_at:
                    self._train_together(group_at[number - 1], jobs, console)
                before = time.perf_counter()
                self._finish(job)
                seconds = time.perf_counter() - before
                if job.error:
                    said = f"FAILED: {job.error}"
                elif job.result.return_value.skipped:
                    said = f"test accuracy {accuracy(job):.4f}  complete already, skipped"
                elif job.together:
                    said = f"test accuracy {accuracy(job):.4f}"
                else:
                    trained, spent = trained + 1, spent + seconds
                    left = spent / trained * sum(bool(later.alone) for later in jobs[number:])
                    said = f"test accuracy {accuracy(job):.4f}  {seconds:.1f} s, {clock(left)} left"
                console.print(f"[{number}/{len(jobs)}] {job.name}  {said}", markup=False)
        finally:
            for job in jobs:
                if job.lock:
                    job.lock.release()
            for study in filter(has_runs, studies):
                write_results(study)
        for group in groups:
            study = jobs[group.lead].study
            settled = [job.directory for job in jobs if not job.waits]
            if unfinished.ended(study, group.planned, settled):
                unfinished.replace(study, [group.planned], [])

    def _plan(self, jobs: Sequence[Job], console: Console) -> list["Group"]:
        """Decide which jobs train together, and list the groups in their study's plan.

        Raises:
            UserError: no job can be trained, or another process trains one.
        """
        from kd.sweeps import grouping, unfinished
        from kd.training.run_folder import is_complete

        missing = {
            index
            for index, job in enumerate(jobs)
            if job.config.overwrite or not is_complete(job.directory)
        }
        missing -= refuse_untrainable(jobs, missing)
        refuse_busy([jobs[index] for index in missing])
        studies = {jobs[index].study for index in missing}
        earlier = [(study, planned) for study in studies for planned in unfinished.read(study)]
        configs, directories = [job.config for job in jobs], [job.directory for job in jobs]
        groups, alone = grouping.plan(configs, directories, missing, earlier)
        anew = {unfinished.run_name(directories[i]) for i in missing if configs[i].overwrite}
        for study in studies:
            old = [group for of, group in earlier if of == study and anew & set(group.runs)]
            mine = [group.planned for group in groups if jobs[group.lead].study == study]
            unfinished.replace(study, old, mine)
        for index, reason in alone.items():
            jobs[index].alone = reason
        reasons = Counter(alone.values()) if len(missing) > 1 else {}
        for reason, count in reasons.items():
            console.print(f"{count} of {len(jobs)} runs train alone: {reason}", markup=False)
        return groups

    def _finish(self, job: Job) -> None:
        """Bring a job to its end: all of it, or what is left after its group's training."""
        from kd.training.run import run

        if job.result is None:
            job.result = run_job(
                hydra_context=self.hydra_context,
                task_function=partial(
                    run, config=job.config, together=job.together, alone=job.alone
                ),
                config=job.cfg,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            if job.error and is_disk_full(job.result._return_value):
                raise UserError(job.error)
        if job.lock:
            job.lock.release()

    def _train_together(self, group: "Group", jobs: Sequence[Job], console: Console) -> None:
        """Train a group and note each job's share of it; where that fails, why they have none.

        Raises:
            OSError: no room is left to write.
            UserError: the memory has no room for all of the sweep.
        """
        from kd.sweeps import module as fused
        from kd.sweeps import unfinished
        from kd.training.run_folder import busy, is_complete, lock_run

        members = []
        for job in (jobs[index] for index in group.members):
            lock = lock_run(job.directory)
            try:
                lock.acquire()
            except Timeout:
                job.put_off(UserError(busy(job.directory)))
                continue
            if is_complete(job.directory) and not job.config.overwrite:
                lock.release()  # another process has been faster: the run is skipped
                continue
            job.lock = lock
            members.append(job)
        if not members:
            return
        unfinished.replace(members[0].study, [], [group.planned])
        try:
            shares = fused.train_group(
                group.planned,
                jobs[group.lead].config,
                [job.config for job in members],
                [job.directory for job in members],
                list(jobs[group.lead].cfg.hydra.overrides.task),
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
            # each job by itself then meets the error, or does without the group
            reason = explain(error)
            if reason is None:  # a fault of ours, which no run's log would show
                traceback.print_exception(error)
                reason = f"{type(error).__name__}: {error}"
            for job in members:
                job.alone = f"the group of {len(members)} failed: {reason}"
                job.lock.release()
                job.lock = None
            console.print(f"{len(members)} runs train alone: {members[0].alone}", markup=False)
            return
        for job, share in zip(members, shares, strict=True):
            job.together = share


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
    from kd.training.run import find_material

    deciding = ("stage", "data.", "teacher.", "model.", "trainer.accelerator", "kd.method")
    errors: dict[str, Exception | None] = {}
    refused = set()
    for index in sorted(missing):
        job = jobs[index]
        settings = {k: v for k, v in relevant(job.config).items() if k.startswith(deciding)}
        key = f"{job.study} {settings}"
        if key not in errors:
            errors[key] = None
            try:
                find_material(job.config, list(job.cfg.hydra.overrides.task))
            except Exception as error:
                errors[key] = error
        if (found := errors[key]) is not None:
            job.result = failure(found)
            refused.add(index)
    if len(refused) == len(jobs):
        raise jobs[0].result._return_value
    return refused


def refuse_busy(jobs: Iterable[Job]) -> None:
    """Make sure that no other process trains any of these jobs.

    Raises:
        UserError: one does.
    """
    from kd.training.run_folder import busy, lock_run

    for job in jobs:
        try:
            with lock_run(job.directory):
                pass
        except Timeout as error:
            raise UserError(busy(job.directory)) from error


def out_of_memory(error: Exception, members: Sequence[Job], group: "Group") -> UserError:
    """What to say of a group that the memory has no room for, and how to go on."""
    from kd.sweeps.unfinished import has_state

    what = f"out of memory in a group of {len(members)} students"
    if isinstance(error, UserError):
        what = str(error)
    size = f"trainer.group_mb (it is {members[0].config.trainer.group_mb})"
    how = f"give a smaller {size}"
    if has_state(members[0].study, group.planned):  # which has its size
        how = f"free some and give the same command, or overwrite=true with a smaller {size}"
    return UserError(f"{what}; {how}")


def failure(error: Exception) -> JobReturn:
    """What a job gives back that failed before it began."""
    result = JobReturn()
    result.return_value, result.status = error, JobStatus.FAILED
    return result


def allow_many_files() -> None:
    """Raise the limit of open files: each run of a group has a lock and its curves' file."""
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
