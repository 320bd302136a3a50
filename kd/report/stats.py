"""Intervals and verdicts: what a study's runs allow one to conclude.

The unit of replication is the seed. A distilled run is compared with the student alone *of the same
seed*, which started from the same weights and saw the same batches. Their difference has less noise
than either accuracy.
"""

# scipy has no type stubs: its results are unknown until they are made floats.
# pyright: strict, reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

import math
from bisect import bisect_left
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
# A smaller gain is of no practical interest: 0.1 points of accuracy, 10 of 10,000 test images.
SMALLEST_GAIN = 0.001
MOST_SEEDS = 2**20  # the most that a study is ever told to have
NO_RUN = "Cannot tell: the study has no distilled run. Run python train.py -m stage=distill …"
NO_CONTROL = (
    "No distilled run (with alpha below 1) has a student alone of its seed: run python "
    "train.py -m stage=student with the seeds of the sweep."
)

C = TypeVar("C", bound=Hashable)  # whatever names a cell
BySeed = Mapping[int, float]
ByCell = Mapping[C, BySeed]
Correct = NDArray[np.bool_]  # (images,): which ones a network gets right
Word = Literal["works", "does not work", "cannot tell"]


def signed(value: float) -> str:
    """A difference in points with its sign: a true minus, and none before 0."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


class Estimate(NamedTuple):
    """A mean over seeds, its interval, and the p-value of the hypothesis that the mean is 0."""

    mean: float
    low: float
    high: float
    p: float
    n: int
    sd: float


class Comparison(NamedTuple):
    """A cell compared with its control over the seeds that both have."""

    accuracy: Estimate  # test accuracy; over all seeds of the cell if the control has none of them
    gain: Estimate  # paired difference of test accuracy; n = 0 without a common seed
    p_holm: float  # the gain's p-value, corrected over all cells; NaN if the gain is not tested
    validation: float  # mean validation accuracy: all that the choice may look at
    is_control: bool = False  # whether the cell is the student alone by its setting


class Verdict(NamedTuple, Generic[C]):
    """The answer, and the cell that it is about."""

    word: Word
    sentence: str
    chosen: C | None  # None if no cell can be compared
    best_on_test: C | None
    harmful: tuple[C, ...] = ()  # cells that are significantly worse, the largest loss first


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Compute the mean over seeds, Student's t interval, and the two-sided t-test against 0.

    Args:
        values: one per seed. A single value has an infinite interval and no p; no value, NaNs.
        level: the coverage of the interval, between 0 and 1.

    Differences that are all 0, as those of a control trained in one group with the student alone,
    give an interval of no width and p = 1. Equal differences other than 0 are an accident, since
    accuracies come in steps of one image. They say nothing about the spread, so the interval is
    infinite.
    """
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, math.nan)
    mean = float(sample.mean())
    if n == 1:
        return Estimate(mean, -math.inf, math.inf, math.nan, n, math.nan)
    sd = float(sample.std(ddof=1))
    if sd < 1e-9:
        half = 0.0 if abs(mean) < 1e-9 else math.inf
        return Estimate(mean, mean - half, mean + half, 1.0, n, 0.0)
    # scipy.stats.ttest_1samp gives the same and takes forty times as long.
    error = sd / math.sqrt(n)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Estimate(mean, mean - half, mean + half, p, n, sd)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of tests, so that any false alarm stays unlikely.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    p = np.asarray(p_values, dtype=float)
    order = p.argsort()
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(1, steps)[order.argsort()].tolist()


def share_interval(right: int, images: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the interval of a network's accuracy over test images (Wilson 1927).

    It holds for this trained network, not for other seeds.
    """
    found = stats.binomtest(right, images).proportion_ci(confidence_level=level, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(one_correct: Correct, other_correct: Correct) -> float:
    """Compute the exact McNemar p-value of two networks erring equally often on the same images.

    McNemar 1947: a two-sided binomial test on the images that only one of them gets right.
    """
    differing = one_correct != other_correct
    if not differing.any():
        return 1.0
    return float(stats.binomtest(int(one_correct[differing].sum()), int(differing.sum())).pvalue)


def bootstrap_difference(
    one_correct: Correct, other_correct: Correct, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Bootstrap the interval of accuracy(one) − accuracy(other) over resampled test images.

    The interval holds for these two trained networks, not for other seeds.
    """
    difference = one_correct.astype(float) - other_correct.astype(float)
    resample = partial(stats.bootstrap, n_resamples=2000, method="percentile", batch=100)
    drawn = resample((difference,), np.mean, confidence_level=level, rng=seed)
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def seeds_needed(sd: float, gain: float, power: float = 0.8, alpha: float = 1 - LEVEL) -> int:
    """Compute how many seeds a two-sided paired t-test needs to detect a true ``gain``.

    Args:
        sd: the standard deviation of the difference between paired runs.
        gain: the true mean difference, not 0.
        power: the wanted probability of detecting it.
        alpha: the level of the test.
    """

    def suffice(n: int) -> bool:
        critical = stats.t.ppf(1 - alpha / 2, n - 1)
        return bool(stats.nct.sf(critical, n - 1, abs(gain) / sd * math.sqrt(n)) >= power)

    return bisect_left(range(MOST_SEEDS), True, lo=2, key=suffice)


def shapley(values: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Compute every factor's share of the change from no factor changed to all changed.

    Shapley 1953, "A Value for n-Person Games": the mean, over all orders in which the factors can
    be changed one after another, of what changing this one adds. The shares sum to the whole
    change, equal factors have equal shares, and a factor that never adds anything has 0.

    Args:
        values: of every set of factors, the empty one too: the value where just these are changed.

    >>> nothing, a, b, both = map(frozenset, ("", "a", "b", "ab"))
    >>> shapley({nothing: 0.0, a: 1.0, b: 3.0, both: 8.0})
    {'a': 3.0, 'b': 5.0}
    """
    factors = sorted(frozenset[str]().union(*values))
    n = len(factors)
    return {
        factor: math.fsum(
            (values[others | {factor}] - value) / (n * math.comb(n - 1, len(others)))
            for others, value in values.items()
            if factor not in others
        )
        for factor in factors
    }


def compare_cells(
    test: ByCell[C], validation: ByCell[C], controls: ByCell[C], control_cells: Collection[C] = ()
) -> dict[C, Comparison]:
    """Estimate every cell's accuracy and its paired gain over its control, Holm-corrected.

    Args:
        test: cell → seed → test accuracy in [0, 1].
        validation: cell → seed → validation accuracy.
        controls: cell → seed → test accuracy of the student alone that the cell is compared with.
        control_cells: the cells that are the student alone by their setting (alpha = 1), whatever
            their results. They are shown and not tested.
    """
    comparisons: dict[C, Comparison] = {}
    for cell, accuracies in test.items():
        seeds = sorted(accuracies.keys() & controls[cell].keys()) or sorted(accuracies)
        is_control = cell in control_cells
        gain = estimate_gain(accuracies, controls[cell], is_control)
        accuracy = estimate([accuracies[seed] for seed in seeds])
        validated = fmean(validation[cell][seed] for seed in seeds)
        comparisons[cell] = Comparison(accuracy, gain, math.nan, validated, is_control)
    tested = [cell for cell, found in comparisons.items() if is_tested(found)]
    corrected = holm([comparisons[cell].gain.p for cell in tested])
    for cell, p in zip(tested, corrected, strict=True):
        comparisons[cell] = comparisons[cell]._replace(p_holm=p)
    return comparisons


def is_tested(found: Comparison) -> bool:
    """Whether a cell's gain is tested: not that of a single seed, nor that of a control."""
    return found.gain.n > 1 and not found.is_control


def find_harmful(cells: Mapping[C, Comparison]) -> tuple[C, ...]:
    """Find the cells that are worse than the student alone with Holm-corrected p below 0.05.

    The test is two-sided, so that it finds losses as it finds gains. The largest loss comes first.
    """
    worse = [c for c, found in cells.items() if found.gain.mean < 0 and found.p_holm < 1 - LEVEL]
    return tuple(sorted(worse, key=lambda cell: cells[cell].gain.mean))


def estimate_gain(accuracies: BySeed, control: BySeed, is_control: bool) -> Estimate:
    """Estimate the paired difference of a cell to its control, over their common seeds.

    Differences of a distilled cell that are all 0 are an accident too, as other equal ones are.
    """
    seeds = sorted(accuracies.keys() & control.keys())
    gain = estimate([accuracies[seed] - control[seed] for seed in seeds])
    return gain if is_control or gain.sd != 0 else gain._replace(low=-math.inf, high=math.inf)


def eligible(cells: Mapping[C, Comparison]) -> dict[C, Comparison]:
    """Select the cells that the choice is made among: no control, and with the most seeds.

    Means over different seeds are no fair comparison. Only settings and seeds decide, no result.
    """
    tested = {cell: found for cell, found in cells.items() if found.gain.n and not found.is_control}
    most = max((found.gain.n for found in tested.values()), default=0)
    return {cell: found for cell, found in tested.items() if found.gain.n == most}


def choose(cells: Mapping[C, Comparison]) -> C | None:
    """Choose the eligible cell with the best mean validation accuracy; None if none is eligible.

    Of equally good cells the first in the given order is chosen, which is that of their settings.
    """
    among = eligible(cells)
    return max(among, key=lambda cell: among[cell].validation, default=None)


def judge(cells: Mapping[C, Comparison], smallest_gain: float = SMALLEST_GAIN) -> Verdict[C]:
    """Answer *works*, *does not work* or *cannot tell* for the cell that validation chooses.

    *Works*: the chosen cell's gain over its control is positive with Holm-corrected p below 0.05.
    The correction counts every cell: validation and test accuracy of one run share its luck, so
    that choosing on validation is not free. *Does not work*: the interval of the gain ends below
    ``smallest_gain``. Otherwise, and always with a single seed, one *cannot tell*.
    """
    among = eligible(cells)
    chosen = choose(cells)
    if chosen is None:
        return Verdict("cannot tell", NO_CONTROL if cells else NO_RUN, None, None)
    best = max(among, key=lambda cell: among[cell].accuracy.mean)
    word, sentence = judge_gain(among[chosen], len(among), smallest_gain)
    return Verdict(word, sentence, chosen, best, find_harmful(cells))


def judge_gain(found: Comparison, cells: int, smallest_gain: float) -> tuple[Word, str]:
    """Answer for one cell, with the numbers in a sentence.

    Args:
        found: the chosen cell.
        cells: the number of cells that it was chosen among.
        smallest_gain: the least gain of practical interest.
    """
    gain = found.gain
    points = f"{signed(100 * gain.mean)} points of test accuracy over the student alone"
    measured = f"The cell chosen on validation has {points}"
    if gain.n < 2:
        return "cannot tell", (
            f"{measured}, with one seed. How far another seed would move this number, one seed "
            "cannot tell. Run at least five."
        )
    limits = " to ".join(signed(100 * limit) for limit in (gain.low, gain.high))
    interval = f"95 % interval {limits}, {gain.n} seeds"
    if math.isinf(gain.high):
        interval = f"the same in all {gain.n} seeds, which says nothing about their spread"
    measured += f" ({interval}, p = {found.p_holm:.2g} after Holm)"
    if gain.mean > 0 and found.p_holm < 1 - LEVEL:
        return "works", f"{measured}."
    if gain.high < smallest_gain:
        ruled_out = f"a gain of {100 * smallest_gain:.1f} points is ruled out"
        return "does not work", f"{measured}: {ruled_out}."
    target = max(abs(gain.mean), smallest_gain)
    needed = seeds_needed(max(gain.sd, 1e-4), target, alpha=(1 - LEVEL) / cells)
    what = "loss" if gain.mean <= -smallest_gain else "gain"
    seeds = f"It takes about {max(gain.n + 1, needed)} seeds to tell a {what} of"
    return "cannot tell", f"{measured}. {seeds} {100 * target:.2f} points from none (80 % power)."
