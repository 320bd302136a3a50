"""A search from its words to its answer: ask, train a batch together, tell, and confirm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from kd.config.schema import Config
from kd.config.showing import print_config
from kd.config.validation import validate
from kd.errors import UserError
from kd.search import storage
from kd.search.halving import Halving, Values, rungs_of
from kd.search.line import Line, Pace
from kd.search.reading import FAILED, FILE, IS_CONTROL, RUNS, choose, ended
from kd.search.space import Space, read_space
from kd.sweeps import plan
from kd.sweeps.job_configs import Compose, Job, compose_jobs
from kd.sweeps.launcher import launch, refuse_untrainable, run_jobs
from kd.sweeps.students import is_taught
from kd.training.run_folder import read_metrics

# Runs words as jobs, the first of this number: another launcher than ours.
Launch = Callable[[Sequence[Sequence[str]], int], object]
MOST_NAMED = 3  # causes of failure


def search(
    words: Sequence[str], compose: Compose, master: DictConfig, other: Launch | None = None
) -> None:
    """Search, then train the chosen setting and its student alone on fresh seeds.

    Args:
        words: of the command, without those of Hydra.
        compose: see :func:`kd.sweeps.job_configs.compose_jobs`.
        master: the configuration of the search.
        other: a launcher in place of ours, which trains one run after another.

    Raises:
        UserError: the words are wrong (nothing has run then), the file is of another search, or no
            trial could be trained.
    """
    space, first = read_space(words, lambda some: validate(compose(master, some)))
    folder = Path(first.output_dir, first.study).absolute()
    rungs = _rungs(first, space, other)
    what = storage.definition(space, first.search)
    print_config(first)
    jobs_of = partial(compose_jobs, compose, master)
    if not (folder / FILE).exists():  # a search that cannot begin leaves nothing behind
        (job,) = jobs_of([space.example])
        refuse_untrainable([job], {job})
    with storage.opened(folder, what, first.search.metric, first.overwrite) as journal:
        found = _Search(space, first, journal, rungs, jobs_of, other)
        found.run()
        found.confirm()


def _rungs(config: Config, space: Space, other: Launch | None) -> list[int]:
    """The epochs at which the worst leave; none without halving.

    Raises:
        UserError: halving is not possible here.
    """
    factor, epochs = config.search.halving, config.trainer.max_epochs
    if factor is None:
        return []
    said = f"search.halving={factor}"
    if other is not None:
        raise UserError(
            f"{said}: trains a batch together; leave out hydra/launcher, or the halving"
        )
    if "trainer.max_epochs" in space.varied:
        raise UserError(f"{said}: needs one trainer.max_epochs for all trials")
    if not (rungs := rungs_of(epochs, factor)):
        raise UserError(f"{said}: needs as many epochs, and trainer.max_epochs={epochs}")
    return rungs


class _Search:
    """A search in progress.

    Args:
        space: what is varied.
        config: of any of its runs, with the settings of the search.
        journal: its file.
        rungs: epochs after which the worst leave.
        jobs_of: makes jobs of the words of each.
        other: a launcher in place of ours.
    """

    def __init__(
        self,
        space: Space,
        config: Config,
        journal: storage.Journal,
        rungs: Sequence[int],
        jobs_of: Callable[[Sequence[Sequence[str]]], list[Job]],
        other: Launch | None,
    ) -> None:
        self.space, self.config, self.settings = space, config, config.search
        self.journal, self.study = journal, journal.study
        self.rungs, self.jobs_of, self.other = rungs, jobs_of, other
        self.folder = Path(config.output_dir, config.study).absolute()
        self.console = Console(highlight=False, soft_wrap=True)
        self.launched = 0  # jobs

    def run(self) -> None:
        """Bring the search to its number of trials."""
        before = len(ended(self.study))
        pace = Pace()
        if before:
            self.console.print(f"the search has {before} of {self.settings.trials} trials")
        while len(ended(self.study)) < self.settings.trials:
            seeds, words = self.settings.seeds, self.space.words
            jobs = {
                trial.number: self.jobs_of([words(trial.params, seed) for seed in seeds])
                for trial in self._ask()
            }
            for trial, some in jobs.items():
                self.journal.note(trial, RUNS, [job.name for job in some])
                kd = some[0].config
                if kd.stage == "distill" and not is_taught(kd):
                    self.journal.note(trial, IS_CONTROL, True)
            self._forget_told()
            if self.other:
                self._train_by(self.other, jobs)
            else:
                self._train(jobs, pace)
            self._refuse_fruitless(jobs)
        self._forget_told()

    def _ask(self) -> list[FrozenTrial]:
        """The trials of the next batch: those that an earlier attempt left, then new ones."""
        open_trials = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        for trial in open_trials:
            if trial.params.keys() != self.space.varied.keys():  # killed while it was proposed
                self.study.tell(trial.number, state=TrialState.FAIL)
        batch = [t for t in open_trials if t.params.keys() == self.space.varied.keys()]
        done = len(ended(self.study))
        size = self.settings.batch - done % self.settings.batch
        size = min(size, self.settings.trials - done)
        for number in range(done + len(batch), done + size):
            # The file keeps no sampler's state: each proposal has a seed of its own.
            seed = self.settings.seed * 100_003 + number
            sampler: Any = optuna.samplers.RandomSampler(seed % 2**32)
            if self.settings.sampler == "tpe":
                sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
            self.study.sampler = sampler
            self.study.ask(self.space.varied)
        return self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])

    def _train(self, jobs: Mapping[int, Sequence[Job]], pace: Pace) -> None:
        """Train a batch as a sweep of our launcher's, those of a kind at once."""
        every = [job for some in jobs.values() for job in some]
        if self.settings.halving:
            known: Values = {rung: {} for rung in self.rungs}
            for trial in ended(self.study):
                for rung, value in trial.intermediate_values.items():
                    known.setdefault(rung, {})[trial.number] = value
            metric, factor = self.settings.metric, self.settings.halving
            self.halving = Halving(self.rungs, factor, metric, known, jobs)
            for job in every:
                job.dismiss = self.halving
        distinct = {job.directory: job for job in reversed(every)}  # Optuna may propose one twice
        jobs = {t: [distinct[job.directory] for job in some] for t, some in jobs.items()}
        line = Line(jobs, self.console, self._tell, self._stand, pace)
        run_jobs([job for job in every if distinct[job.directory] is job], self.console, board=line)

    def _train_by(self, other: Launch, jobs: Mapping[int, Sequence[Job]]) -> None:
        """Have another launcher train a batch."""
        every = [job for some in jobs.values() for job in some]
        other([list(job.hydra.overrides.task) for job in every], self.launched)
        self.launched += len(every)
        for trial, some in jobs.items():
            self._tell(trial, some)

    def _tell(self, trial: int, jobs: Sequence[Job]) -> None:
        """Tell Optuna how a trial went."""
        if any(job.waits for job in jobs):  # for memory, or for another process
            return
        if self.rungs:
            for rung, values in self.halving.values.items():
                if trial in values:
                    self.journal.report(trial, rung, values[trial])
        figures = [self._figure(job) for job in jobs if not job.dismissed]
        found = [figure for figure in figures if figure is not None]
        if len(found) == len(jobs):
            self.study.tell(trial, fmean(found))
            return
        if len(found) < len(figures):  # one that diverged is none to go near to
            cause = next((job.error for job in jobs if job.error), None)
            self.journal.note(trial, FAILED, cause or "its run failed")
        self.study.tell(trial, state=TrialState.PRUNED)

    def _figure(self, job: Job) -> float | None:
        """What a complete run came to."""
        metrics = job.outcome.metrics if job.outcome else read_metrics(job.directory)
        return None if job.error or metrics is None else metrics[self.settings.metric]

    def _refuse_fruitless(self, jobs: Mapping[int, Sequence[Job]]) -> None:
        """End the search where nothing can be learnt any more.

        Raises:
            UserError: memory or another process stood in the way, or each trial of a batch failed.
        """
        every = [job for some in jobs.values() for job in some]
        for job in every:
            if job.waits:
                raise UserError(f"{job.error}") from job.failure
        trials = {trial.number: trial for trial in ended(self.study)}
        causes = [trials[number].user_attrs.get(FAILED) for number in jobs]
        if all(causes):
            named = "; ".join(dict.fromkeys(map(str, causes[:MOST_NAMED])))
            raise UserError(
                f"every trial of a batch failed: {named}; the train.log of each says more"
            )

    def _forget_told(self) -> None:
        """Take groups off the plan that a killed process left there: their trials have ended."""
        told = [run for trial in ended(self.study) for run in trial.user_attrs.get(RUNS, [])]
        runs = [self.folder / run for run in told]
        for group in plan.read(self.folder):
            if plan.ended(self.folder, group, runs):
                plan.replace(self.folder, [group], [])

    def _stand(self) -> tuple[int, int, str]:
        """How many trials have ended, how many are wanted, and the best in words."""
        best = choose(self.study)
        said = f"{self._shown(best)} on validation: {self._setting(best)}" if best else ""
        return len(ended(self.study)), self.settings.trials, said

    def _shown(self, trial: FrozenTrial) -> str:
        """The figure of a trial."""
        return f"{trial.value:.4f}"

    def _setting(self, trial: FrozenTrial) -> str:
        """What a trial tried, in words."""
        values = {key: self.space.value(key, trial.params[key]) for key in self.space.varied}
        return ", ".join(
            f"{key.removeprefix('kd.')}={v:.4g}" if isinstance(v, float) else f"{key}={v}"
            for key, v in values.items()
        )

    def confirm(self) -> None:
        """Train the chosen setting and its student alone on fresh seeds, and say what came of it.

        Raises:
            UserError: a run failed.
        """
        trials, best = ended(self.study), choose(self.study)
        failed = sum(FAILED in trial.user_attrs for trial in trials)
        halved = sum(trial.state == TrialState.PRUNED for trial in trials) - failed
        parts = [f"{n} {what}" for n, what in ((halved, "halved"), (failed, "failed")) if n]
        of = f" ({', '.join(parts)})" if parts else ""
        if best is None:
            self.console.print(f"{len(trials)} trials{of}, and none to choose")
            return
        seeds = len(self.settings.seeds)
        mean = f", mean of {seeds} seeds" if seeds > 1 else ""
        self.console.print(
            f"{len(trials)} trials{of}; the best on validation{mean} has {self.settings.metric} "
            f"{self._shown(best)}: {self._setting(best)}",
            markup=False,
        )
        place = f"{self.config.output_dir}/{self.config.study}/{FILE}"
        self.console.print(f"to look at the search: optuna-dashboard {place}", markup=False)
        if self.settings.confirm:
            self._confirm(best)

    def _confirm(self, best: FrozenTrial) -> None:
        first = max(self.settings.seeds) + 1
        fresh = range(first, first + self.settings.confirm)
        stages = ["distill", "student"] if self.config.stage == "distill" else [self.config.stage]
        words = [self.space.words(best.params, s, stage) for stage in stages for s in fresh]
        jobs = self.jobs_of(words)
        mine = [job for job in jobs if job.config.stage == self.config.stage]
        storage.add_choice(self.study, best, [job.name for job in mine])
        self.console.print(f"on {len(fresh)} fresh seeds, to confirm it:")
        if self.other:
            self.other(words, self.launched)
        else:
            launch(jobs)
        figures = [self._figure(job) for job in mine]
        validated = fmean(figure for figure in figures if figure is not None)
        self.console.print(
            f"{self.settings.metric} {validated:.4f} on fresh seeds, {self._shown(best)} in the "
            "search, where it was the best of many"
        )
