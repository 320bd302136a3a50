"""Intervals and verdicts: what a study's runs allow one to say.

The unit of replication is the seed. A distilled run is compared with the student alone *of the same
seed*, which started from the same weights and saw the same batches, so the difference has less
noise than either accuracy.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
# A gain below this is of no practical interest: 0.1 points of accuracy, 10 of 10,000 test images.
SMALLEST_GAIN = 0.001


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval and the p-value of the mean being 0."""

    mean: float
    low: float
    high: float
    p: float
    n: int
    sd: float


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Student's t interval and two-sided one-sample t-test (against 0) of a mean over seeds.

    Args:
        values: one value a seed. One alone has no interval: it is infinite, and p is 1.
        level: coverage of the interval, between 0 and 1.

    Differences that are all 0, as those of a control trained in one group with the student alone,
    give an interval of no width, p = 1. Equal ones other than 0 are an accident of accuracies that
    come in steps of an image: they say nothing of the spread, so the interval is infinite.
    """
    sample = np.asarray(values, dtype=float)
    n, mean = len(sample), float(sample.mean())
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, 1.0, n, math.nan)
    sd = float(sample.std(ddof=1))
    if sd < 1e-9:
        half = 0.0 if abs(mean) < 1e-9 else math.inf
        return Estimate(mean, mean - half, mean + half, 1.0, n, 0.0)
    error = sd / math.sqrt(n)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Estimate(mean, mean - half, mean + half, p, n, sd)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the chance of any false alarm among all cells stays bounded.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()


def mcnemar(one_correct: np.ndarray, other_correct: np.ndarray) -> float:
    """Exact McNemar p-value: do two networks err equally often on the same test images?

    McNemar 1947; two-sided binomial test on the images that one gets right and the other wrong.

    Args:
        one_correct, other_correct: (images,) of bool.
    """
    only_one = int((one_correct & ~other_correct).sum())
    only_other = int((~one_correct & other_correct).sum())
    if only_one + only_other == 0:
        return 1.0
    return float(stats.binomtest(only_one, only_one + only_other).pvalue)


def bootstrap_difference(
    one_correct: np.ndarray, other_correct: np.ndarray, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of accuracy(one) − accuracy(other) over resampled test images: percentile bootstrap.

    It speaks of these two trained networks, not of other seeds.
    """
    difference = one_correct.astype(float) - other_correct.astype(float)
    draws = stats.bootstrap(
        (difference,),
        np.mean,
        confidence_level=level,
        n_resamples=2000,
        method="percentile",
        batch=100,
        rng=np.random.default_rng(seed),
    )
    interval = draws.confidence_interval
    return float(interval.low), float(interval.high)


def seeds_needed(sd: float, gain: float, power: float = 0.8, alpha: float = 1 - LEVEL) -> int:
    """How many seeds a two-sided paired t-test needs to see a true ``gain`` with that power.

    Args:
        sd: of the difference between paired runs.
        gain: the true mean difference to detect, not 0.
        power: wanted chance of seeing it.
        alpha: the test's level.
    """

    def shortfall(n: float) -> float:
        critical = stats.t.ppf(1 - alpha / 2, n - 1)
        return power - stats.nct.sf(critical, n - 1, abs(gain) / sd * math.sqrt(n))

    if shortfall(2) <= 0:
        return 2
    most = 2.0
    while shortfall(most) > 0:
        most *= 2
        if most > 1e6:
            return int(most)
    return math.ceil(brentq(shortfall, most / 2, most))


BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Compared:
    """A cell of the sweep beside the student alone, both over the seeds that they share."""

    accuracy: Estimate  # test accuracy; over all seeds of the cell where none is shared
    gain: Estimate | None  # paired test difference; None without a common seed
    p_holm: float  # of the gain, corrected over all cells; NaN where no test is made of it
    validation: float  # mean validation accuracy: what the choice may look at
    control: bool = False  # whether it is the student alone by its setting


@dataclass(frozen=True)
class Verdict:
    """The answer, and the cell that it is about."""

    word: str  # works | does not work | cannot tell
    sentence: str
    chosen: object | None
    best_on_test: object | None


def compare(
    test: Mapping[object, BySeed],
    validation: Mapping[object, BySeed],
    alone: Mapping[object, BySeed],
    controls: Collection[object] = (),
) -> dict[object, Compared]:
    """Every cell's accuracy and its paired difference to the student alone, Holm-corrected.

    Args:
        test: cell → seed → test accuracy in [0, 1].
        validation: the same of the validation images.
        alone: cell → seed → test accuracy of the student alone that the cell is compared with.
        controls: the cells that are the student alone by their setting (alpha = 1), whatever their
            results: they are shown, and nothing is tested of them.
    """
    shared = {
        cell: sorted(seeds.keys() & alone[cell].keys()) or sorted(seeds)
        for cell, seeds in test.items()
    }
    gains = {cell: gain_over(test[cell], alone[cell], cell in controls) for cell in test}
    tested = [c for c, gain in gains.items() if gain and gain.n > 1 and c not in controls]
    corrected = dict(zip(tested, holm([gains[cell].p for cell in tested]), strict=True))
    untested = {c: math.nan if c in controls or not gain else 1.0 for c, gain in gains.items()}
    return {
        cell: Compared(
            accuracy=estimate([test[cell][s] for s in seeds]),
            gain=gains[cell],
            p_holm=(untested | corrected)[cell],
            validation=fmean(validation[cell][s] for s in seeds),
            control=cell in controls,
        )
        for cell, seeds in shared.items()
    }


def gain_over(cell: BySeed, alone: BySeed, control: bool) -> Estimate | None:
    """The paired difference of a cell to the student alone; None without a common seed.

    Differences of a distilled cell that are all 0 are an accident too, as other equal ones are.
    """
    common = sorted(cell.keys() & alone.keys())
    if not common:
        return None
    gain = estimate([cell[seed] - alone[seed] for seed in common])
    return gain if control or gain.sd != 0 else replace(gain, low=-math.inf, high=math.inf)


def eligible(cells: Mapping[object, Compared]) -> dict[object, Compared]:
    """The cells that a choice is made of: no control, and with the most seeds.

    Means of different seeds are no fair race. No result decides on it, only settings and seeds.
    """
    tested = {c: found for c, found in cells.items() if found.gain and not found.control}
    most = max((found.gain.n for found in tested.values()), default=0)
    return {c: found for c, found in tested.items() if found.gain.n == most}


def choose(cells: Mapping[object, Compared]) -> object | None:
    """The cell of the best mean validation accuracy among the eligible; None if none is.

    Of equally good ones the first in the order given, which is that of their settings.
    """
    among = eligible(cells)
    return max(among, key=lambda cell: among[cell].validation, default=None)


def judge(cells: Mapping[object, Compared], smallest_gain: float = SMALLEST_GAIN) -> Verdict:
    """*works*, *does not work* or *cannot tell*, about the cell that validation chooses.

    *Works*: the chosen cell's gain over the student alone is positive with Holm-corrected p below
    0.05. The correction counts every cell, since validation and test accuracy of one run share its
    luck, so that choosing on validation is not free. *Does not work*: the interval of the gain ends
    below ``smallest_gain``. Else, and with a single seed always, one *cannot tell*.
    """
    cells = eligible(cells)
    chosen = choose(cells)
    if chosen is None:
        sentence = (
            "No distilled run (with alpha below 1) has a student alone of its seed: run python "
            "train.py -m stage=student with the seeds of the sweep."
        )
        return Verdict("cannot tell", sentence, None, None)
    best = max(cells, key=lambda cell: cells[cell].accuracy.mean)
    found = cells[chosen]
    gain = found.gain
    points = f"{100 * gain.mean:+.2f} points of test accuracy over the student alone"
    if gain.n < 2:
        sentence = (
            f"The cell chosen on validation has {points}, with one seed. How far another seed "
            "would move this number, one seed cannot tell. Run at least five."
        )
        return Verdict("cannot tell", sentence, chosen, best)
    interval = f"95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, {gain.n} seeds"
    if math.isinf(gain.high):
        interval = f"the same in all {gain.n} seeds, which says nothing of their spread"
    said = (
        f"The cell chosen on validation has {points} ({interval}, p = {found.p_holm:.2g} after Holm"
    )
    if gain.mean > 0 and found.p_holm < 1 - LEVEL:
        return Verdict("works", f"{said}).", chosen, best)
    if gain.high < smallest_gain:
        sentence = f"{said}): a gain of {100 * smallest_gain:.1f} points is ruled out."
        return Verdict("does not work", sentence, chosen, best)
    target = max(abs(gain.mean), smallest_gain)
    needed = max(
        gain.n + 1, seeds_needed(max(gain.sd, 1e-4), target, alpha=(1 - LEVEL) / len(cells))
    )
    sentence = (
        f"{said}). About {needed} seeds would tell a gain of {100 * target:.2f} points from none "
        "(80 % power)."
    )
    return Verdict("cannot tell", sentence, chosen, best)
