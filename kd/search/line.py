"""The one line that a search shows while it runs; and what a trial's jobs come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from kd.sweeps.board import PAUSE, Board
from kd.sweeps.job_configs import Job
from kd.sweeps.table import rounded


@dataclass
class Pace:
    """How fast a command's earlier batches were."""

    started: float = field(default_factory=time.perf_counter)
    trials: int = 0
    epochs: int = 0  # of all their students


class Line(Board):
    """Trials done, the best by validation, and the time left.

    Args:
        jobs: of each trial of a batch, by its number.
        console: to draw on.
        tell: is told of each trial whose jobs have all had their turn.
        stand: how many trials have ended, how many are wanted, and the best of them in words.
        pace: of the command so far.
    """

    def __init__(
        self,
        jobs: Mapping[int, Sequence[Job]],
        console: Console,
        tell: Callable[[int, Sequence[Job]], None],
        stand: Callable[[], tuple[int, int, str]],
        pace: Pace,
    ) -> None:
        super().__init__([job for some in jobs.values() for job in some], console)
        self.of_trial, self.tell, self.stand = jobs, tell, stand
        self.pace, self.settled = pace, set[Job]()
        self.spent: dict[Job, int] = {}  # epochs

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

    def note(self, job: Job, epochs: int, accuracy: float, ended: bool) -> None:
        """Take note of an epoch of a job."""
        super().note(job, epochs, accuracy, ended)
        self.spent[job] = epochs

    def __exit__(self, *error: object) -> None:
        """Take the line down; the batch counts for the next one's pace."""
        super().__exit__(*error)
        if not self.console.is_terminal and error[0] is None:
            self.say(self.words())
        self.pace.trials += len(self.of_trial)
        self.pace.epochs += sum(self.spent.values())

    def words(self) -> str:
        """The line; the time left is that of trials which are halved as often as those so far."""
        done, wanted, best = self.stand()
        said = f"trials {done}/{wanted}{f'  best {best}' if best else ''}"
        if done == wanted:
            return said
        told = sum(self.settled.issuperset(some) for some in self.of_trial.values())
        begun = len(self.of_trial) - told
        here = sum(self.spent.values())
        ahead = sum(job.config.trainer.max_epochs - self.epochs[job] for job in self.jobs)
        if self.pace.trials:  # some will leave, as in the batches before
            usual = self.pace.epochs / self.pace.trials * len(self.of_trial)
            ahead = min(ahead, max(0.0, usual - here))
        if not (spent := self.pace.epochs + here):
            return said
        each = (spent + ahead) / (self.pace.trials + len(self.of_trial))
        left = ahead + each * (wanted - done - begun)
        seconds = (time.perf_counter() - self.pace.started) / spent * left
        return f"{said}  {rounded(seconds)} left"

    def draw(self) -> None:
        """Draw the line, a few times per second at most."""
        if not self.drawn or time.perf_counter() - self.looked < PAUSE:
            return
        self.looked = time.perf_counter()
        line = Text(self.words(), no_wrap=True, overflow="ellipsis")
        self.drawn.update(line, refresh=True)
