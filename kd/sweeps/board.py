"""What a sweep shows while it runs: a bar, counts, time left; a large one the best so far."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
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
        of_many: where these are a small part of a sweep, how that stands; then the epochs of
            groups are not told one by one.
    """

    def __init__(self, jobs: Sequence[Job], console: Console, of_many: str | None = None) -> None:
        self.console, self.of_many = console, of_many
        self.follow(jobs)
        self.looked = 0.0  # when it was last drawn
        self.group = self.groups = 0  # the one that trains, counted from 1, and how many there are
        self.drawn: Live | None = None
        if console.is_terminal:
            self.drawn = Live(console=console, auto_refresh=False, transient=True)

    def follow(self, jobs: Sequence[Job]) -> None:
        """Be about these jobs, none of which has begun."""
        self.jobs = jobs
        self.state: dict[Job, str] = dict.fromkeys(jobs, "waiting")
        self.accuracy: dict[Job, float] = {}  # on validation, of the weights kept so far
        self.epochs: dict[Job, int] = dict.fromkeys(jobs, 0)
        self.trained, self.started = 0, time.perf_counter()  # epochs of this command

    def __enter__(self) -> "Board":
        """Begin to draw."""
        if self.drawn:
            self.drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the drawing down."""
        if self.drawn:
            self.drawn.stop()

    @property
    def speaks(self) -> bool:
        """Whether it tells of the epochs of groups, which then need not do so themselves."""
        return self.drawn is not None or self.of_many is not None

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
        if job.outcome and not job.outcome.skipped:
            self.trained += job.config.trainer.max_epochs - self.epochs[job]
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
        """Draw the bar and the counts, a few times per second at most; of many jobs the best."""
        if not self.drawn or time.perf_counter() - self.looked < PAUSE:
            return
        self.looked = time.perf_counter()
        whole = sum(job.config.trainer.max_epochs for job in self.jobs)
        bar = ProgressBar(whole, sum(self.epochs.values()), width=20)
        which = f"group {self.group} of {self.groups}; " if self.groups > 1 and self.group else ""
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, f"{self.of_many or ''}{which}{self.counts()}")
        shown = Group(self.best(), line) if len(self.jobs) >= FROM else line
        self.drawn.update(shown, refresh=True)

    def best(self) -> Table:
        """The best jobs so far."""
        table = Table("", "validation accuracy", title="best so far", title_justify="left")
        best = sorted(self.accuracy, key=lambda job: -self.accuracy[job])[:BEST]
        for job in best:
            table.add_row(job.name, f"{self.accuracy[job]:.4f}")
        return table
