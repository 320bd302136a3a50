"""The one line that a search shows while it runs; and what a trial's jobs come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from kd.sweeps.board import PAUSE, Board
from kd.sweeps.job_configs import Job
from kd.sweeps.table import rounded


class Line(Board):
    """Trials done, the best by validation, and the time left.

    Args:
        jobs: of each trial of a batch, by its number.
        console: to draw on.
        tell: is told of each trial whose jobs have all had their turn.
        stand: how many trials have ended, how many are wanted, and the best of them in words.
        started: when the command began its first batch, and how many trials had ended by then.
    """

    def __init__(
        self,
        jobs: Mapping[int, Sequence[Job]],
        console: Console,
        tell: Callable[[int, Sequence[Job]], None],
        stand: Callable[[], tuple[int, int, str]],
        started: tuple[float, int],
    ) -> None:
        super().__init__([job for some in jobs.values() for job in some], console)
        self.of_trial, self.tell, self.stand = jobs, tell, stand
        self.begun, self.before = started
        self.settled: set[Job] = set()

    def settle(self, job: Job, number: int, said: str) -> None:
        """Take note that a job has had its turn; tell of its trial if it was the last."""
        self.epochs[job] = job.config.trainer.max_epochs
        self.settled.add(job)
        if job.error and not job.waits:
            self.say(f"{job.name}  {said}")
        for trial, some in self.of_trial.items():
            if job in some and self.settled.issuperset(some):
                self.tell(trial, some)
        self.draw()

    def words(self) -> str:
        """The line."""
        done, wanted, best = self.stand()
        trained = sum(self.epochs[job] / job.config.trainer.max_epochs for job in self.jobs)
        whole = len(self.jobs) - len(self.settled)
        part = (trained - len(self.settled)) / whole if whole else 0.0  # of those in training
        ended = done - self.before + part * (len(self.of_trial) - self.told())
        left = ""
        if ended > 0 and wanted > done:
            spent = time.perf_counter() - self.begun
            left = f"  {rounded(spent / ended * (wanted - self.before - ended))} left"
        return f"trials {done}/{wanted}{f'  best {best}' if best else ''}{left}"

    def told(self) -> int:
        """How many trials of the batch have ended."""
        return sum(self.settled.issuperset(some) for some in self.of_trial.values())

    def draw(self) -> None:
        """Draw the line, a few times per second at most."""
        if not self.drawn or time.perf_counter() - self.looked < PAUSE:
            return
        self.looked = time.perf_counter()
        line = Text(self.words(), no_wrap=True, overflow="ellipsis")
        self.drawn.update(line, refresh=True)
