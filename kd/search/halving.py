"""Successive halving within a group: which students leave it before the end, by validation.

Trials meet at *rungs*: the epochs max/n, max/n², … of ``search.halving=n``. The best nth of all
that have come to a rung goes on from there, and the rest leaves (Jamieson & Talwalkar 2016,
arXiv:1502.07943). What came there in earlier groups and batches counts too, as in ASHA (Li et al.
2018, arXiv:1810.05934).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from kd.sweeps.job_configs import Job
from kd.sweeps.students import Student, student_of
from kd.training.book import Bookkeeper

Values = dict[int, dict[int, float]]  # by rung and trial; NaN of one that has diverged


def rungs_of(epochs: int, factor: int) -> list[int]:
    """The epochs after which the worst leave.

    >>> rungs_of(10, 3)
    [1, 3]
    """
    found, rung = [], epochs // factor
    while rung:
        found.insert(0, rung)
        rung //= factor
    return found


class Halving:
    """Decides after every epoch of a group who is to leave it.

    Where the seeds of a trial train in several groups, those of the group in hand count, and what
    has left one group leaves the others too.

    Args:
        rungs: epochs.
        factor: one of so many goes on.
        metric: a figure of the validation.
        known: the values of trials that have ended.
        jobs: of each trial of the batch.
    """

    def __init__(
        self,
        rungs: Sequence[int],
        factor: int,
        metric: str,
        known: Values,
        jobs: Mapping[int, Sequence[Job]],
    ) -> None:
        self.rungs, self.factor, self.metric = rungs, factor, metric
        self.values: Values = {rung: dict(known.get(rung, {})) for rung in rungs}
        self.out: set[int] = set()  # trials
        self.trials_of: dict[Student, list[int]] = defaultdict(list)
        for trial, some in jobs.items():
            for job in some:
                self.trials_of[student_of(job.config)].append(trial)

    def __call__(self, module: Bookkeeper, students: Sequence[Student]) -> set[int]:
        """The numbers of the students that are to leave a group now.

        Args:
            module: of the group, an epoch at its end.
            students: of the group.
        """
        found: dict[int, list[int]] = defaultdict(list)  # students of each trial
        for number, student in enumerate(students):
            for trial in self.trials_of.get(student, ()):
                found[trial].append(number)
        for rung in self.rungs:
            if rung <= len(module.history):
                for trial, numbers in found.items():
                    self._note(rung, trial, module, numbers)
        if len(module.history) in self.rungs:
            values = self.values[len(module.history)]
            self.out |= found.keys() - best_of(values, self.factor, self.metric)
        wanted = {n for trial, some in found.items() if trial not in self.out for n in some}
        return {number for some in found.values() for number in some} - wanted

    def _note(self, rung: int, trial: int, module: Bookkeeper, students: Sequence[int]) -> None:
        """Note what a trial had at a rung, if it came there or ended by itself before."""
        left = set(students).intersection(module.dismissed)
        if trial not in self.values[rung] and not any(
            len(module.column(self.metric, number)) < rung for number in left
        ):
            figures = [self._figure(module, number, rung) for number in students]
            self.values[rung][trial] = fmean(figures)

    def _figure(self, module: Bookkeeper, student: int, epoch: int) -> float:
        """The figure of the weights that a student had kept until then."""
        values = module.column(self.metric, student)[:epoch]
        if not math.isfinite(module.column("train/loss", student)[:epoch][-1]):
            return math.nan
        if module.ends[student].checkpoint == "last":
            return values[-1]
        accuracies = module.column("val/acc", student)[:epoch]
        return values[accuracies.index(max(accuracies))]


def best_of(values: Mapping[int, float], factor: int, metric: str) -> set[int]:
    """The trials that go on from a rung: one of ``factor``, and at least one.

    >>> sorted(best_of({0: 0.9, 1: 0.7, 2: 0.8, 3: float("nan")}, 2, "val/acc"))
    [0, 2]
    """
    sign = 1 if metric.endswith("loss") else -1

    def place(trial: int) -> tuple[bool, float, int]:
        value = values[trial]
        return math.isnan(value), 0.0 if math.isnan(value) else sign * value, trial

    return set(sorted(values, key=place)[: max(1, len(values) // factor)])
