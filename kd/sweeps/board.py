"""What a large sweep shows while it runs: counts, time left, and the best by validation."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from kd.sweeps.job_configs import Job
from kd.sweeps.table import BEST, rounded

FROM = 40  # jobs; of fewer each has a line
PAUSE = 0.2  # seconds between two drawings


class Board(AbstractContextManager["Board"]):
    """The state of a sweep's jobs, drawn anew as it changes where the console is a terminal.

    Args:
        jobs: of the sweep.
        console: to draw on.
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.jobs, self.console = jobs, console
        self.state: dict[Job, str] = dict.fromkeys(jobs, "waiting")
        self.accuracy: dict[Job, float] = {}  # on validation, of the weights kept so far
        self.epochs: dict[Job, int] = dict.fromkeys(jobs, 0)
        self.trained, self.started = 0, time.perf_counter()  # epochs of this command
        self.looked = 0.0  # when it was last drawn
        self.drawn: Live | None = None
        if console.is_terminal and len(jobs) >= FROM:
            self.drawn = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Board":
        """Begin to draw."""
        if self.drawn:
            self.drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the drawing down."""
        if self.drawn:
            self.drawn.stop()

    def say(self, line: str) -> None:
        """Print a line, above what is drawn."""
        self.console.print(line, markup=False)

    def settle(self, job: Job, number: int, said: str) -> None:
        """Take note that a job has had its turn.

        Args:
            job: which has.
            number: of the job, counted from 1.
            said: what became of it. In a large sweep failures alone are told one by one.
        """
        self.epochs[job] = job.config.trainer.max_epochs
        self.state[job] = "failed" if job.error else "complete"
        if not job.error:
            self.accuracy[job] = job.outcome.metrics["val/acc"]
        if len(self.jobs) < FROM or job.error:
            self.say(said)
        elif not self.drawn and number in (len(self.jobs), *range(0, len(self.jobs), FROM)):
            self.say(f"[{number}/{len(self.jobs)}] {self.counts()}")
        self.draw()

    def note(self, job: Job, epochs: int, accuracy: float, ended: bool) -> None:
        """Take note of an epoch of a job that trains.

        Args:
            job: of a group.
            epochs: that have passed.
            accuracy: on validation, of the weights that would be kept now.
            ended: whether its training is over.
        """
        early = ended and epochs < job.config.trainer.max_epochs
        self.state[job] = "stopped early" if early else "trained" if ended else "running"
        self.trained += max(0, epochs - self.epochs[job])
        self.epochs[job] = job.config.trainer.max_epochs if ended else epochs
        self.accuracy[job] = accuracy

    def counts(self) -> str:
        """How many jobs are in which state, and how long the rest will take."""
        found = ", ".join(f"{n} {state}" for state, n in Counter(self.state.values()).items())
        left = sum(job.config.trainer.max_epochs - self.epochs[job] for job in self.jobs)
        if not (self.trained and left):
            return found
        each = (time.perf_counter() - self.started) / self.trained
        return f"{found}; {rounded(each * left)} left"

    def draw(self) -> None:
        """Draw counts and the best jobs, a few times per second at most."""
        if not self.drawn or time.perf_counter() - self.looked < PAUSE:
            return
        self.looked = time.perf_counter()
        table = Table("", "validation accuracy", title="best so far", title_justify="left")
        best = sorted(self.accuracy, key=lambda job: -self.accuracy[job])[:BEST]
        for job in best:
            table.add_row(job.name, f"{self.accuracy[job]:.4f}")
        self.drawn.update(Group(table, self.counts()), refresh=True)
