"""The statistics: against scipy's own answers, and by simulation of whole studies."""

import math
import re

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kd.report.stats import (
    bootstrap_difference,
    choose,
    compare_cells,
    eligible,
    estimate,
    holm,
    judge,
    mcnemar,
    seeds_needed,
    share_interval,
)

CELLS = [(T, alpha) for T in (1, 2, 5, 10) for alpha in (0, 0.25, 0.5, 0.75, 1)]


def compare(test, validation, alone, controls=()):
    """Every cell beside one student alone."""
    return compare_cells(test, validation, dict.fromkeys(test, alone), controls)


def study(random: np.random.Generator, seeds: int, gains: dict, run_sd=0.0015, eval_sd=0.001):
    """Accuracies of a made-up study: a run's own luck shows on validation and on test alike."""
    alone = {s: 0.965 + random.normal(0, run_sd) for s in range(seeds)}
    test, validation = {}, {}
    for cell in CELLS:
        luck = {s: random.normal(0, run_sd) for s in range(seeds)}
        means = {s: alone[s] + gains.get(cell, 0) + luck[s] for s in range(seeds)}
        if cell[1] == 1:
            means = dict(alone)
        test[cell] = {
            s: m + (random.normal(0, eval_sd) if cell[1] != 1 else 0) for s, m in means.items()
        }
        validation[cell] = {s: m + random.normal(0, eval_sd) for s, m in means.items()}
    return compare(test, validation, alone, {cell for cell in CELLS if cell[1] == 1})


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_without_an_effect_works_comes_up_at_most_1_time_in_20(seeds):
    random = np.random.default_rng(seeds)
    words = [judge(study(random, seeds, {})).word for _ in range(1000)]
    assert words.count("works") <= 50


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_under_a_known_effect_the_intervals_cover_it(seeds):
    random, truth, covered = np.random.default_rng(seeds), 0.003, []
    while len(covered) < 4000:
        for cell, found in study(random, seeds, dict.fromkeys(CELLS, truth)).items():
            if cell[1] != 1:
                covered.append(found.gain.low <= truth <= found.gain.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_a_clear_effect_is_found_and_a_harm_is_not_called_a_gain():
    random = np.random.default_rng(0)
    helped = [judge(study(random, 10, dict.fromkeys(CELLS, 0.006))).word for _ in range(50)]
    assert helped.count("works") >= 45
    harmed = [judge(study(random, 10, dict.fromkeys(CELLS, -0.006))) for _ in range(50)]
    assert all(verdict.word != "works" for verdict in harmed)


def test_a_tight_null_is_does_not_work():
    random = np.random.default_rng(0)
    verdicts = [judge(study(random, 10, {}, run_sd=1e-4, eval_sd=1e-4)) for _ in range(50)]
    denied = [verdict for verdict in verdicts if verdict.word == "does not work"]
    assert len(denied) >= 45, "up to 1 in 20 may be called a gain by chance"
    assert all("is ruled out" in verdict.sentence for verdict in denied)


def test_one_seed_cannot_tell():
    verdict = judge(study(np.random.default_rng(0), 1, dict.fromkeys(CELLS, 0.05)))
    assert verdict.word == "cannot tell"
    assert "one seed cannot tell" in verdict.sentence


def test_two_noisy_seeds_say_how_many_would_tell():
    verdict = judge(study(np.random.default_rng(1), 2, {}))
    assert verdict.word == "cannot tell"
    assert "seeds to tell" in verdict.sentence


def test_the_choice_looks_at_validation_only():
    alone = {0: 0.96, 1: 0.96}
    test = {"a": {0: 0.97, 1: 0.98}, "b": {0: 0.95, 1: 0.96}}
    validation = {"a": {0: 0.90, 1: 0.90}, "b": {0: 0.99, 1: 0.99}}
    verdict = judge(compare(test, validation, alone))
    assert verdict.chosen == "b"
    assert verdict.best_on_test == "a"


def test_cells_are_paired_with_the_student_of_the_same_seed():
    alone = {0: 0.90, 1: 0.95, 7: 0.5}
    found = compare({"a": {0: 0.91, 1: 0.97, 3: 0.1}}, {"a": {0: 1.0, 1: 0.5}}, alone)["a"]
    assert found.gain.n == 2
    assert found.gain.mean == pytest.approx(0.015)
    assert (found.accuracy.n, found.accuracy.mean) == (2, pytest.approx(0.94)), "the same seeds"
    assert found.validation == 0.75
    lonely = compare({"a": {5: 0.9}}, {"a": {5: 0.9}}, alone)
    assert lonely["a"].gain.n == 0
    assert judge(lonely).word == "cannot tell"


def test_nothing_is_tested_of_a_control():
    alone = {0: 0.96, 1: 0.97, 2: 0.965}
    other = {s: a + d for (s, a), d in zip(alone.items(), (0.003, 0.0032, 0.0031), strict=True)}
    rounded = {s: a + d for (s, a), d in zip(alone.items(), (1e-4, 0, 2e-4), strict=True)}
    for control in (alone, rounded):
        parts = {"control": control, "other": other}
        cells = compare(parts, parts, alone, {"control"})
        assert math.isnan(cells["control"].p_holm)
        assert cells["control"].gain.n == 3, "it is shown"
        assert cells["other"].p_holm == cells["other"].gain.p < 0.05


def test_a_control_is_never_the_choice_whatever_its_results():
    alone = {0: 0.96, 1: 0.97}
    other = {0: 0.955, 1: 0.968}
    worse = {0: 0.90, 1: 0.91}
    for control in (alone, {0: 0.97, 1: 0.975}):
        parts = {"control": control, "b": other}
        verdict = judge(compare(parts, {"control": alone, "b": worse}, alone, {"control"}))
        assert (verdict.chosen, verdict.best_on_test) == ("b", "b")
        only = {"control": control}
        assert judge(compare(only, only, alone, {"control"})).chosen is None


def test_a_cell_that_happens_to_equal_the_student_alone_is_no_control():
    alone = {0: 0.96, 1: 0.97}
    cells = compare({"same": alone}, {"same": alone}, alone)
    assert list(eligible(cells)) == ["same"]
    assert cells["same"].p_holm == 1
    assert judge(cells).word == "cannot tell", "equal by accident: the spread is unknown"


@pytest.mark.parametrize("number", range(30))
def test_choice_and_eligible_cells_do_not_depend_on_test_figures(number):
    random = np.random.default_rng(number)
    coarse = random.integers(2, 40)  # accuracies in few steps: ties everywhere
    cells = [c for c in CELLS if random.random() < 0.8] or CELLS
    controls = {cell for cell in cells if cell[1] == 1}

    def draw(seeds):
        return {int(s): float(random.integers(0, coarse + 1) / coarse) for s in seeds}

    seeds = {c: random.permutation(6)[: random.integers(1, 6)] for c in cells}
    validation = {c: draw(seeds[c]) for c in cells}
    alone = draw(random.permutation(6)[:4])
    outcomes = []
    for _ in range(20):
        test = {c: draw(seeds[c]) for c in cells}
        alone = draw(alone)
        if random.random() < 0.3:  # some cells are the student alone to the last digit
            test = {c: {s: alone.get(s, v) for s, v in by.items()} for c, by in test.items()}
        if random.random() < 0.5:
            test = {c: {s: random.random() for s in by} for c, by in test.items()}
        found = compare(test, validation, alone, controls)
        outcomes.append((choose(found), list(eligible(found)), judge(found).chosen))
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_of_cells_of_equal_validation_the_first_counts():
    alone = {0: 0.5, 1: 0.5, 2: 0.5}
    one, other = {0: 0.9, 1: 0.8, 2: 0.7}, {2: 0.9, 0: 0.7, 1: 0.8}
    for validation in ({"a": one, "b": other}, {"a": other, "b": one}):
        for test in ({"a": one, "b": alone}, {"a": alone, "b": one}):
            assert choose(compare(test, validation, alone)) == "a"


def test_no_infinity_is_said():
    alone = {0: 0.96, 1: 0.97}
    for seeds in (1, 2):
        shifted = {s: alone[s] + 0.005 for s in range(seeds)}
        sentence = judge(compare({"a": shifted}, {"a": shifted}, alone)).sentence
        assert not re.search(r"\b(inf|nan)\b", sentence), sentence


def test_cells_with_fewer_seeds_take_no_part_in_the_choice():
    random = np.random.default_rng(0)
    alone = {s: 0.96 + random.normal(0, 0.001) for s in range(5)}
    full = {s: a + 0.003 + random.normal(0, 0.0005) for s, a in alone.items()}
    lucky = {0: alone[0] + 0.02}
    cells = compare({"full": full, "lucky": lucky}, {"full": full, "lucky": lucky}, alone)
    verdict = judge(cells)
    assert verdict.chosen == "full"
    assert verdict.word == "works"
    assert cells["full"].p_holm == cells["full"].gain.p, "a cell of one seed is no test"


def test_estimates_are_scipys():
    values = [0.1, 0.4, 0.3, 0.35]
    found = estimate(values)
    test = scipy_stats.ttest_1samp(values, 0)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p == pytest.approx(test.pvalue)
    assert math.isinf(estimate([0.1]).high)
    assert math.isinf(estimate([0.2, 0.2]).high), "equal by accident: the spread is unknown"
    assert (estimate([0.0, 0.0]).low, estimate([0.0, 0.0]).high) == (0, 0)


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_mcnemar_counts_only_disagreements():
    one = np.array([True] * 90 + [False] * 10)
    other = one.copy()
    assert mcnemar(one, other) == 1.0
    other[:8] = False
    assert mcnemar(one, other) == pytest.approx(2 * 0.5**8)


def test_the_interval_of_an_accuracy_is_wilsons():
    low, high = share_interval(973, 1000)
    assert (low, high) == pytest.approx((0.9610, 0.9814), abs=1e-4)
    assert share_interval(10, 10)[1] == 1


def test_the_bootstrap_agrees_with_the_normal_interval():
    random = np.random.default_rng(0)
    one, other = random.random(5000) < 0.97, random.random(5000) < 0.95
    difference = one.astype(float) - other
    spread = 1.96 * difference.std() / math.sqrt(5000)
    low, high = bootstrap_difference(one, other)
    assert low == pytest.approx(difference.mean() - spread, abs=6e-4)
    assert high == pytest.approx(difference.mean() + spread, abs=6e-4)


def test_seeds_needed_gives_the_power_it_promises():
    needed = seeds_needed(sd=0.002, gain=0.0015)
    random = np.random.default_rng(0)
    runs = random.normal(0.0015, 0.002, (4000, needed))
    seen = scipy_stats.ttest_1samp(runs, 0, axis=1).pvalue < 0.05
    assert 0.78 <= seen.mean() <= 0.85
    assert seeds_needed(sd=1e-6, gain=1) == 2


def test_a_single_seed_has_no_p():
    assert math.isnan(estimate([0.1]).p)
    cells = compare({"a": {0: 0.9}}, {"a": {0: 0.9}}, {0: 0.95})
    assert math.isnan(cells["a"].p_holm)
    assert judge(cells).harmful == ()


def test_cells_that_are_significantly_worse_are_found():
    random = np.random.default_rng(0)
    alone = {s: 0.96 + random.normal(0, 0.001) for s in range(5)}

    def shifted(by: float) -> dict[int, float]:
        return {s: a + by + random.normal(0, 0.0005) for s, a in alone.items()}

    cells = {"bad": shifted(-0.005), "same": shifted(0), "worst": shifted(-0.008)}
    cells["control"] = shifted(-0.02)
    verdict = judge(compare(cells, cells, alone, {"control"}))
    assert verdict.harmful == ("worst", "bad")
