"""The launcher of ``-m``: checks every job, trains together what can be, then one line a job.

Hydra finds it by the name of this folder; ``hydra/launcher=basic`` runs without it. Whatever is
imported at its top is paid at every start, so nothing heavy is.
"""

import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.table import Table

from kd import importing
from kd.composing import copying
from kd.config import Config, UserError, validate
from kd.explain import explain


@dataclass
class SweepLauncherConf:
    """Hydra's entry for ``hydra/launcher=sweep``."""

    _target_: str = "hydra_plugins.sweep_launcher.SweepLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="sweep", node=SweepLauncherConf)


@dataclass
class Job:
    """One run of the sweep and what became of it."""

    cfg: DictConfig
    config: Config
    name: str
    directory: Path
    together: Any = None  # a kd.run.Together: its share of a group's training
    alone: str = ""  # why it has none
    result: JobReturn | None = None

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
        jobs = [
            self._compose(list(words), number)
            for number, words in enumerate(job_overrides, initial_job_idx)
        ]
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
                f"{len(failed)} of {len(jobs)} runs failed: {names}; the train.log of each says why"
            )
        return [job.result for job in jobs]

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
            from kd import fused, grouping
            from kd.folder import is_complete
            from kd.results import write_results
            from kd.run import run

        wanted: dict[Path, Job] = {}  # each folder once
        for job in jobs:
            if job.config.overwrite or not is_complete(job.directory):
                wanted.setdefault(job.directory, job)
        missing = list(wanted.values())
        studies = {job.directory.parents[1] for job in jobs}
        unfinished = any(map(fused.is_unfinished, studies))
        groups, alone = grouping.plan([job.config for job in missing], unfinished)
        for index, reason in alone.items():
            missing[index].alone = reason
        reasons = Counter(alone.values()) if len(missing) > 1 else {}
        for reason, count in reasons.items():
            console.print(f"{count} of {len(jobs)} runs train alone: {reason}", markup=False)
        group_at = {missing[min(group)].directory: [missing[i] for i in group] for group in groups}

        files, spent, trained = [], 0.0, 0
        try:
            for number, job in enumerate(jobs, 1):
                if job.directory in group_at:
                    files += self._train_together(group_at.pop(job.directory), console)
                before = time.perf_counter()
                job.result = run_job(
                    hydra_context=self.hydra_context,
                    task_function=partial(
                        run, config=job.config, together=job.together, alone=job.alone
                    ),
                    config=job.cfg,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
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
            for study in studies:
                write_results(study)
        for file in files:
            fused.discard(file)

    def _train_together(self, members: Sequence[Job], console: Console) -> list[Path]:
        """Train a group and note each job's share of it; the group's file, or none if it failed."""
        from kd import fused

        try:
            trained = fused.train_group(
                [job.config for job in members],
                [job.directory for job in members],
                list(members[0].cfg.hydra.overrides.task),
            )
        except Exception as error:  # each job by itself then meets it, or does without the group
            reason = explain(error)
            if reason is None:  # a fault of ours, which no run's log would show
                traceback.print_exception(error)
                reason = f"{type(error).__name__}: {error}"
            for job in members:
                job.alone = f"the group of {len(members)} failed: {reason}"
            console.print(f"{len(members)} runs train alone: {members[0].alone}", markup=False)
            return []
        for job, share in zip(members, trained.shares, strict=True):
            job.together = share
        return [trained.file]


def accuracy(job: Job) -> float:
    """The test accuracy of a complete job, in [0, 1]."""
    return job.result.return_value.metrics["test/acc"]


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def tables(jobs: Sequence[Job]) -> list[Table]:
    """Test accuracies, T down and alpha across, the mean over seeds; a table for all else swept.

    Tables of a single cell each become the rows of one.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        stage, _, name = job.name.partition("/")
        others = [w for w in name.split(",") if not w.startswith(("T=", "alpha=", "seed="))]
        groups.setdefault(" ".join([job.config.study, stage, *others]), []).append(job)
    places = [
        {(job.config.kd.T, job.config.kd.alpha) for job in group} for group in groups.values()
    ]
    if len(groups) < 2 or any(len(found) > 1 for found in places):
        return [grid(title, group) for title, group in groups.items()]
    head = f"test accuracy{over_seeds(jobs)}"
    table = Table("", "T", "alpha", "test accuracy", title=head, title_justify="left")
    common = set.intersection(*(set(title.split()[2:]) for title in groups))
    for title, group in groups.items():
        kd, told = group[0].config.kd, [word for word in title.split() if word not in common]
        numbers = (f"{kd.T:g}", f"{kd.alpha:g}") if group[0].config.stage == "distill" else ("", "")
        table.add_row(" ".join(told), *numbers, cell(group))
    return [table]


def grid(title: str, jobs: Sequence[Job]) -> Table:
    """One table of :func:`tables`; without a teacher it is a single cell."""
    distilled = jobs[0].config.stage == "distill"
    cells: dict[tuple[str, str], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: (job.config.kd.T, job.config.kd.alpha)):
        kd = job.config.kd
        key = (f"T = {kd.T:g}", f"alpha = {kd.alpha:g}") if distilled else (job.config.stage, "")
        cells.setdefault(key, []).append(job)
    rows, columns = (dict.fromkeys(key[axis] for key in cells) for axis in (0, 1))
    head = f"{title}: test accuracy{over_seeds(jobs)}"
    table = Table("", *columns, title=head, title_justify="left", show_header=distilled)
    for row in rows:
        table.add_row(row, *(cell(cells.get((row, column), [])) for column in columns))
    return table


def over_seeds(jobs: Sequence[Job]) -> str:
    """What to add to a table's title where it has means."""
    seeds = len({job.config.seed for job in jobs})
    return f", mean of {seeds} seeds" if seeds > 1 else ""


def cell(jobs: Sequence[Job]) -> str:
    """Mean test accuracy of a cell's seeds; failures are counted, not averaged away."""
    good = [accuracy(job) for job in jobs if not job.error]
    mean = f"{sum(good) / len(good):.4f}" if good else ""
    failed = len(jobs) - len(good)
    return f"{mean} {failed} failed".strip() if failed else mean
