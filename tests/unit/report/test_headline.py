"""What the page's head says beside the verdict: what hurts, and a command that Hydra takes."""

import math
import shlex
from itertools import product
from pathlib import Path

import pytest
from helpers import config as compose
from helpers import make_up_run

from kd.config.schema import Config
from kd.report.drawings import Bar, draw_forest, ticks
from kd.report.embedded import embed
from kd.report.headline import make_headline
from kd.report.maps import draw_for_page
from kd.report.study import Study, load_study

NOISE = (0.0004, -0.0003, 0.0002, -0.0001, -0.0002)


def make_up(folder: Path, gains: dict[float, float], seeds: int = 3, **settings) -> Study:
    """A study at alpha = 0 and 0.5 with these gains by temperature."""
    make_up_run(folder, "teacher", 0.99)
    for seed in range(seeds):
        make_up_run(folder, "student", 0.96, seed, **settings)
        for (T, gain), alpha in product(gains.items(), (0.0, 0.5)):
            accuracy = 0.96 + gain + NOISE[seed] * (1 + T / 10)
            make_up_run(folder, "distill", accuracy, seed, kd__T=T, kd__alpha=alpha, **settings)
    return load_study(folder)


def next_words(study: Study) -> list[str]:
    command = make_headline(study, Config(study="mine")).command
    python, script, *words = shlex.split(command)
    assert (python, script) == ("python", "train.py")
    return words


@pytest.mark.parametrize(
    ("gains", "seeds", "settings", "expected"),
    [
        ({1.0: -0.001, 4.0: 0.0}, 1, {}, {"seed=1,2,3,4", "kd.T=1,4", "kd.alpha=0,0.5"}),
        ({1.0: 0.004, 10.0: 0.001}, 5, {}, {"seed=5,6,7,8,9", "kd.T=1", "study=mine-again"}),
        ({1.0: -0.01}, 5, {"model__dropout": 0.1}, {"model.dropout=0", "seed=0,1,2,3,4"}),
        ({1.0: -0.01}, 5, {"model__dropout": 0.0}, {"kd.T=2,3,4", "study=mine-mild"}),
        ({3.0: -0.01}, 5, {"model__hidden": 32}, {"model.hidden=128", "study=mine-wider"}),
    ],
    ids=["more seeds", "confirm", "no dropout", "mild", "wider"],
)
def test_the_next_command(tmp_path, gains, seeds, settings, expected):
    words = next_words(make_up(tmp_path, gains, seeds, **settings))
    assert words[:2] == ["-m", "stage=student,distill"]
    assert expected <= set(words)
    for word in words[2:]:  # each a setting with values that are allowed
        key, values = word.split("=")
        compose("stage=distill", f"{key}={values.split(',')[0]}")


def test_a_teacher_alone_and_a_student_alone_are_told_to_go_on(tmp_path):
    make_up_run(tmp_path / "one", "teacher", 0.99)
    assert "stage=student,distill" in next_words(load_study(tmp_path / "one"))
    make_up_run(tmp_path / "two", "student", 0.96)
    assert next_words(load_study(tmp_path / "two")) == ["stage=teacher", "study=mine"]


def test_what_hurts_is_said_if_it_is_significant(tmp_path):
    head = make_headline(make_up(tmp_path / "hot", {1.0: 0.0, 10.0: -0.01}, 5), Config())
    assert head.hurts.startswith("2 of 4 cells hurt, most of all T = 10, alpha = 0")
    assert head.hurts.endswith(": −1.00 points")
    assert make_headline(make_up(tmp_path / "none", {1.0: 0.0}, 5), Config()).hurts == ""


def test_one_seed_has_neither_intervals_nor_tests(tmp_path):
    study = make_up(tmp_path, {1.0: 0.002, 10.0: -0.02}, seeds=1)
    head = make_headline(study, Config())
    assert head.hurts == ""
    assert "whisker" not in head.picture
    drawn = "".join(draw_for_page(study).values())
    assert "whisker" not in drawn
    assert "(" not in drawn.split("<table")[3], "no brackets"
    assert not any(word in drawn + head.picture for word in ("inf", "nan"))
    for cell in embed(study)["cells"]:
        assert cell["low"] is None
        assert "p" not in cell


def test_a_mean_without_interval_is_a_dot():
    drawn = draw_forest([Bar("one", 0.5), Bar("two", 0.1, -0.1, math.inf)], "two gains")
    assert drawn.count("<circle") == 2
    assert "whisker" not in drawn


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.31, 0.29, [-0.2, 0, 0.2]), (7, 7, [7])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)
