"""What each factor accounts for: Shapley's values, and the studies that they are computed for."""

import math
from itertools import chain, combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest
from helpers import make_up_run

from kd.config.schema import Config
from kd.report.comparison import show_left_out
from kd.report.factors import show_factors
from kd.report.stats import estimate, shapley
from kd.report.study import load_study

NOISE = {0: 0.001, 1: -0.0004, 2: 0.0002}  # of a seed's gain


def sets_of(factors: str) -> list[frozenset[str]]:
    """Every set of factors."""
    sizes = range(len(factors) + 1)
    return [*map(frozenset, chain.from_iterable(combinations(factors, k) for k in sizes))]


def of(**values: float) -> dict[frozenset[str], float]:
    return {frozenset(name.strip("_")): value for name, value in values.items()}


def test_shapleys_values_by_hand():
    two = of(_=1.0, a=2.0, b=4.0, ab=9.0)  # a adds 1 or 5, b adds 3 or 7
    assert shapley(two) == pytest.approx({"a": 3, "b": 5})
    # The glove game: a left glove, a, is worth 1 with a right one, b or c.
    three = of(_=0, a=0, b=0, c=0, ab=1, ac=1, bc=0, abc=1)
    assert shapley(three) == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})


@pytest.mark.parametrize("factors", ["a", "ab", "abc", "abcde"])
def test_they_are_the_mean_over_all_orders_and_sum_to_the_change(factors):
    random = np.random.default_rng(len(factors))
    values = {some: float(random.normal()) for some in sets_of(factors)}
    orders = [*permutations(factors)]
    expected = dict.fromkeys(factors, 0.0)
    for order in orders:
        for place, name in enumerate(order):
            before = frozenset(order[:place])
            expected[name] += (values[before | {name}] - values[before]) / len(orders)
    found = shapley(values)
    assert found == pytest.approx(expected)
    change = values[frozenset(factors)] - values[frozenset()]
    assert sum(found.values()) == pytest.approx(change, abs=1e-12)


def test_equal_factors_have_equal_shares_and_a_dummy_has_none():
    values = {some: float(len(some - {"d"}) ** 2) for some in sets_of("abd")}
    found = shapley(values)
    assert found["a"] == found["b"] == pytest.approx(2)
    assert found["d"] == 0


DROPOUT, LR = {"model__dropout": (0.1, 0.0)}, {"optim__lr": (0.001, 0.01)}
LOSS = {  # the gain at T = 10 by dropout and learning rate; the effects add up to 0.011
    (0.1, 0.001): -0.013,
    (0.0, 0.001): -0.009,
    (0.1, 0.01): -0.008,
    (0.0, 0.01): -0.002,
}


def make_up(study: Path, factors: dict, gain, seeds=(0, 1, 2), cells=((10.0, 0.0),)) -> None:
    """Students alone and distilled at every combination; ``gain`` takes levels, seed and T."""
    make_up_run(study, "teacher", 0.98)
    for levels in product(*factors.values()):
        own = dict(zip(factors, levels, strict=True))
        for seed in seeds:
            alone = 0.96 + 0.003 * seed
            make_up_run(study, "student", alone, seed, **own)
            for T, alpha in cells:
                accuracy = alone + gain(levels, seed, T)
                make_up_run(study, "distill", accuracy, seed, kd__T=T, kd__alpha=alpha, **own)


def loss(levels: tuple, seed: int, T: float) -> float:
    return LOSS[levels] * T / 10 + NOISE[seed]


def factors_of(study: Path) -> list:
    return show_factors(load_study(study), Config())


def test_a_crossing_is_accounted_for(tmp_path):
    make_up(tmp_path, DROPOUT | LR, loss)
    (section,) = factors_of(tmp_path)
    table = section.table.set_index("part")
    assert [*table.index] == ["lowest gain", "model.dropout", "optim.lr", "remainder"]
    # Dropout adds 4 or 6 thousandths, the learning rate 5 or 7.
    expected = [-0.013, 0.005, 0.006, -0.002]
    noise = np.mean([*NOISE.values()])
    assert table["gain"].to_numpy() == pytest.approx(np.add(expected, [noise, 0, 0, noise]))
    assert table.loc["model.dropout", ["from", "to"]].tolist() == ["0.1", "0"]
    assert table.loc["optim.lr", ["from", "to"]].tolist() == ["0.001", "0.01"]
    first = estimate([-0.013 + each for each in NOISE.values()])
    assert tuple(table.loc["lowest gain", ["gain_low", "gain_high"]]) == pytest.approx(
        (first.low, first.high)
    )
    assert (table["seeds"] == 3).all()
    assert (table["T"] == 10).all()
    assert (table["alpha"] == 0).all()
    assert "lowest with model.dropout=0.1; optim.lr=0.001: −1.27 points" in section.text
    assert "over the 3 seeds that every combination has." in section.text
    assert section.figure is not None
    assert section.said[0] == "what each factor accounts for at T = 10, alpha = 0 (3 seeds):"
    assert section.said[2].startswith("  model.dropout: 0.1 → 0  +0.50 points")


def test_intervals_are_those_of_the_seeds_own_values(tmp_path):
    random = np.random.default_rng(0)
    factors = DROPOUT | LR | {"data__batch_size": (32, 128)}
    luck = {key: random.normal(0, 0.002) for key in product(*factors.values(), range(3))}
    make_up(tmp_path, factors, lambda levels, seed, T: luck[*levels, seed])
    (section,) = factors_of(tmp_path)
    table = section.table.set_index("part")
    means = {own: np.mean([luck[*own, s] for s in range(3)]) for own in product(*factors.values())}
    base = min(means, key=means.get)
    names = ["model.dropout", "optim.lr", "data.batch_size"]
    by_seed = []
    for seed in range(3):
        values = {}
        for some in sets_of("012"):
            pairs = enumerate(factors.values())
            other = [pair[pair[0] == base[i]] if str(i) in some else base[i] for i, pair in pairs]
            values[some] = luck[*other, seed]
        by_seed.append(shapley(values))
    for number, name in enumerate(names):
        own = estimate([each[str(number)] for each in by_seed])
        found = tuple(table.loc[name, ["gain", "gain_low", "gain_high"]])
        assert found == pytest.approx((own.mean, own.low, own.high)), name
    parts = table["gain"]
    assert parts["lowest gain"] + parts[names].sum() == pytest.approx(parts["remainder"])


def test_cells_in_common_are_shown_the_hottest_first(tmp_path):
    places = [(T, alpha) for T in (1.0, 4.0, 10.0) for alpha in (0.5, 0.0, 1.0)]
    make_up(tmp_path, DROPOUT | LR, loss, cells=places)
    own = {"model__dropout": 0.1, "optim__lr": 0.001}
    make_up_run(tmp_path, "distill", 0.9, kd__T=20.0, kd__alpha=0.0, **own)
    (section,) = factors_of(tmp_path)
    shown = section.table[["T", "alpha"]].drop_duplicates().to_numpy().tolist()
    assert shown == [[10, 0], [10, 0.5], [4, 0]]
    assert "Cells that are not shown: 3." in section.text


def test_only_complete_seeds_count(tmp_path):
    make_up(tmp_path, DROPOUT | LR, loss)
    next(tmp_path.glob("distill/*dropout=0.1*lr=0.01,seed=1*/metrics.json")).unlink()
    (section,) = factors_of(tmp_path)
    assert (section.table["seeds"] == 2).all()
    assert "over the 2 seeds that every combination has, of 3." in section.text


def test_one_seed_has_no_interval(tmp_path):
    make_up(tmp_path, DROPOUT | LR, loss, seeds=(0,))
    (section,) = factors_of(tmp_path)
    assert "gain_high" not in section.table
    assert "inf" not in " ".join([section.text, *section.said])


def test_settings_that_differ_together_are_one_factor(tmp_path):
    make_up(tmp_path, DROPOUT | LR, loss)
    for path in tmp_path.glob("[sd]*/*/metrics.json"):
        schedule = "constant" if "lr=0.001" in str(path) else "cosine"
        path.write_text(path.read_text().replace("{", f'{{"optim/schedule": "{schedule}",', 1))
    table = factors_of(tmp_path)[0].table.set_index("part")
    name = "optim.lr, optim.schedule"
    assert table.loc[name, ["from", "to"]].tolist() == ["0.001, constant", "0.01, cosine"]


def test_of_more_than_two_levels_the_best_other_one_is_the_change(tmp_path):
    widths = {"model__hidden": (32, 128, 512)}
    gain = {32: -0.013, 128: 0.001, 512: -0.004}
    make_up(tmp_path, widths | LR, lambda own, seed, T: gain[own[0]] + 0.1 * own[1] + NOISE[seed])
    table = factors_of(tmp_path)[0].table.set_index("part")
    assert table.loc["model.hidden", ["from", "to"]].tolist() == ["32", "128"]
    assert table.loc["model.hidden", "gain"] == pytest.approx(0.014)
    assert table.loc["optim.lr", "gain"] == pytest.approx(0.0009)


def test_a_setting_of_one_combination_is_left_out(tmp_path):
    make_up(tmp_path, DROPOUT | LR, loss)
    own = {"model__dropout": 0.1, "optim__lr": 0.1}
    make_up_run(tmp_path, "student", 0.9, **own)
    make_up_run(tmp_path, "distill", 0.8, kd__T=10.0, kd__alpha=0.0, **own)
    (section,) = factors_of(tmp_path)
    assert section.table["gain"].min() == pytest.approx(-0.013 + np.mean([*NOISE.values()]))
    assert "Combinations that do not cross with these: 1, left out." in section.text


def test_a_number_of_training_images_may_be_null(tmp_path):
    factors = {"data__train_size": (1000, None), "model__dropout": (0.1, 0.0)}
    make_up(tmp_path, factors, lambda own, seed, T: NOISE[seed] - (0.01 if own[0] else 0))
    table = factors_of(tmp_path)[0].table.set_index("part")
    assert table.loc["data.train_size", ["from", "to"]].tolist() == ["1000", "null"]
    assert table.loc["data.train_size", "gain"] == pytest.approx(0.01)
    assert table.loc["model.dropout", "gain"] == pytest.approx(0)


def test_a_factor_may_be_the_data_split(tmp_path):
    """Each gain is within a split; no other section sets the two side by side."""
    for split, worse in (("official", 0.0), ("pooled", 0.004)):
        for dropout, seed in product((0.1, 0.0), (0, 1)):
            own = {"data__split": split, "model__dropout": dropout, "images": split}
            make_up_run(tmp_path, "student", 0.9 + worse, seed, **own)
            gain = NOISE[seed] - worse - dropout / 100
            where = {"kd__T": 10.0, "kd__alpha": 0.0, **own}
            make_up_run(tmp_path, "distill", 0.9 + worse + gain, seed, **where)
    study = load_study(tmp_path)
    assert len(study.refused) == 8
    (section,) = show_factors(study, Config())
    table = section.table.set_index("part")
    assert table.loc["data.split", "gain"] == pytest.approx(0.004)
    assert table.loc["model.dropout", "gain"] == pytest.approx(0.001)
    assert "Only what each factor accounts for may" in show_left_out(study, Config())[0].text


def test_a_factor_may_be_of_distillation_alone(tmp_path):
    """Then the student alone is the same at either level."""
    for dropout, seed in product((0.1, 0.0), (0, 1)):
        make_up_run(tmp_path, "student", 0.9, seed, model__dropout=dropout)
        for direction in ("forward", "reverse"):
            own = {"kd__T": 2.0, "kd__alpha": 0.5, "kd__direction": direction}
            gain = NOISE[seed] - dropout / 10 - 0.002 * (direction == "reverse")
            make_up_run(tmp_path, "distill", 0.9 + gain, seed, model__dropout=dropout, **own)
    table = factors_of(tmp_path)[0].table.set_index("part")
    assert table.loc["kd.direction", "gain"] == pytest.approx(0.002)


def test_runs_that_are_older_than_a_setting_have_its_zero(tmp_path):
    factors = {"data__label_noise": (0.0, 0.2), "model__dropout": (0.1, 0.0)}
    make_up(tmp_path, factors, lambda own, seed, T: NOISE[seed] - own[0] / 10 - own[1] / 100)
    for path in tmp_path.glob("*/*noise=0.0,*dropout=0.1*/metrics.json"):
        path.write_text(path.read_text().replace('"data/label_noise": 0.0,', ""))
    table = factors_of(tmp_path)[0].table.set_index("part")
    assert table.loc["data.label_noise", "gain"] == pytest.approx(0.02)
    assert table.loc["model.dropout", "gain"] == pytest.approx(0.001)


def test_what_is_missing_is_said(tmp_path):
    make_up(tmp_path, DROPOUT | LR, loss)
    for path in tmp_path.glob("student/*dropout=0.0*lr=0.01*/metrics.json"):
        path.unlink()
    (section,) = factors_of(tmp_path)
    assert section.table is None
    assert "It lacks for: model.dropout=0; optim.lr=0.01." in section.text


def test_without_a_cell_in_common_that_is_said(tmp_path):
    make_up(tmp_path, DROPOUT | LR, loss)
    for path in tmp_path.glob("distill/*dropout=0.0*lr=0.01*/metrics.json"):
        path.write_text(path.read_text().replace('"kd/T": 10.0', '"kd/T": 2.0'))
    (section,) = factors_of(tmp_path)
    assert "Needs a seed, T and alpha that all 4 combinations of model.dropout" in section.text


@pytest.mark.parametrize("factors", [{}, DROPOUT, LR])
def test_without_two_factors_there_is_no_section(tmp_path, factors):
    make_up(tmp_path, factors, lambda levels, seed, T: NOISE[seed], cells=[(1.0, 0.0), (4.0, 0.5)])
    assert factors_of(tmp_path) == []
    assert math.isfinite(load_study(tmp_path).verdict.chosen.T)
