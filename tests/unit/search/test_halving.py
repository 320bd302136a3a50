"""Who leaves a group at a rung."""

import math

import pytest
from helpers import as_job, config

from kd.search.halving import Halving, best_of, rungs_of
from kd.sweeps.students import student_of
from kd.training.book import Ends


class Book:
    """The figures of some students, epoch by epoch, as a group keeps them."""

    def __init__(self, *columns: list[float], checkpoint: str = "last") -> None:
        self.columns, self.dismissed = list(columns), []
        self.history: list[None] = []
        self.ends = [Ends(9, checkpoint)] * len(columns)
        self.losses: dict[int, list[float]] = {}

    def column(self, tag: str, student: int) -> list[float]:
        passed = self.columns[student][: len(self.history)]
        return self.losses.get(student, [0.1] * len(passed)) if tag == "train/loss" else passed

    def epoch(self, rule: Halving, students: list[str]) -> set[int]:
        self.history.append(None)
        out = rule(self, students)
        for student in out - set(self.dismissed):
            self.dismissed.append(student)
            self.columns[student] = self.columns[student][: len(self.history)]
        return out


def of_trials(*seeds: list[int], known=None, rungs=(1, 3), factor=2) -> tuple[Halving, list[str]]:
    """A rule for trials of these seeds, which differ in T, and their students."""
    jobs = {
        trial: [as_job(config("stage=distill", f"kd.T={trial + 1}", f"seed={s}"), f"{trial}-{s}")
                for s in some]
        for trial, some in enumerate(seeds)
    }  # fmt: skip
    students = [student_of(job.config) for some in jobs.values() for job in some]
    return Halving(rungs, factor, "val/acc", known or {}, jobs), students


@pytest.mark.parametrize(
    ("epochs", "factor", "rungs"),
    [(10, 3, [1, 3]), (20, 3, [2, 6]), (9, 3, [1, 3]), (2, 3, []), (8, 2, [1, 2, 4]), (5, 5, [1])],
)
def test_rungs_are_fractions_of_the_training(epochs, factor, rungs):
    assert rungs_of(epochs, factor) == rungs


def test_of_losses_the_small_ones_go_on():
    values = {0: 0.3, 1: 0.1, 2: math.nan, 3: 0.2}
    assert best_of(values, 2, "val/loss") == {1, 3}
    assert best_of(values, 2, "val/acc") == {0, 3}
    assert best_of({0: math.nan}, 3, "val/acc") == {0}


def test_the_worst_leave_at_rungs_alone():
    rule, students = of_trials([0], [0], [0], [0])
    book = Book([0.1] * 4, [0.4] * 4, [0.2] * 4, [0.3, 0.3, 0.5, 0.5])
    assert book.epoch(rule, students) == {0, 2}
    assert book.epoch(rule, students) == {0, 2}
    assert book.epoch(rule, students) == {0, 2, 1}
    assert rule.values == {1: {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}, 3: {1: 0.4, 3: 0.5}}


def test_those_of_earlier_batches_count():
    rule, students = of_trials([0], [0], known={1: {8: 0.9, 9: 0.8}})
    assert Book([0.5], [0.85]).epoch(rule, students) == {0}
    rule, students = of_trials([0], [0], known={1: {8: 0.9, 9: 0.8}})
    assert Book([0.5], [0.7]).epoch(rule, students) == {0, 1}


def test_the_mean_over_the_seeds_decides_for_all_of_a_trial():
    rule, students = of_trials([0, 1], [0, 1])
    assert Book([0.9], [0.1], [0.6], [0.6]).epoch(rule, students) == {0, 1}
    assert rule.values[1] == pytest.approx({0: 0.5, 1: 0.6})


def test_what_left_one_group_leaves_the_others():
    rule, students = of_trials([0, 1], [0, 1])
    assert Book([0.9], [0.8]).epoch(rule, [students[0], students[2]]) == {1}
    assert Book([0.1], [0.8]).epoch(rule, [students[1], students[3]]) == {1}


def test_one_that_diverged_is_the_worst_and_counts():
    rule, students = of_trials([0], [0], [0])
    book = Book([0.9], [0.2], [0.1])
    book.losses[0] = [math.nan]
    assert book.epoch(rule, students) == {0, 2}
    assert math.isnan(rule.values[1][0])


def test_the_best_epoch_so_far_counts_where_it_is_kept():
    rule, students = of_trials([0], [0], rungs=(2,))
    book = Book([0.9, 0.1], [0.5, 0.6], checkpoint="best")
    book.epoch(rule, students)
    assert book.epoch(rule, students) == {1}


def test_another_attempt_comes_to_the_same_decisions():
    columns = [0.1] * 4, [0.4] * 4, [0.2] * 4, [0.3, 0.3, 0.5, 0.5]
    rule, students = of_trials([0], [0], [0], [0])
    whole = Book(*columns)
    decided = [whole.epoch(rule, students) for _ in range(4)]
    again, _ = of_trials([0], [0], [0], [0])
    book = Book(*columns)
    book.history, book.dismissed = [None, None], [0, 2]  # as its file has them
    book.columns = [c[:1] if n in (0, 2) else c for n, c in enumerate(columns)]
    assert book.epoch(again, students) >= decided[2] - {0, 2}
    assert again.values == rule.values


def test_a_student_of_two_trials_stays_with_the_better():
    first, second = (as_job(config("stage=distill", "kd.alpha=1", f"kd.T={T}"), T) for T in "12")
    other = as_job(config("stage=distill", "seed=1"), "other")
    rule = Halving([1], 2, "val/acc", {}, {0: [first], 1: [second], 2: [other]})
    students = [student_of(first.config), student_of(other.config)]
    assert student_of(second.config) == students[0]
    assert Book([0.9], [0.5]).epoch(rule, students) == {1}
