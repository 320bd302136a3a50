"""``tags=[…]`` and ``print_config=true``: what is told of a run, and of all its settings."""

import pytest
from helpers import MINI, complete, metrics, tree

from kd.report.study import load_study

STUDENT = ("stage=student", *MINI)


def test_tags_are_recorded_and_make_no_other_run(cli):
    assert cli(*STUDENT, "tags=[first,with-dropout]").code == 0
    (run,) = complete()
    assert metrics(run)["tags"] == "first,with-dropout"
    before = tree(run)
    assert "skipped" in cli(*STUDENT).out
    assert tree(run) == before
    assert cli(*STUDENT, "seed=1").code == 0
    assert load_study("outputs/main").frame()["tags"].dropna().tolist() == ["first,with-dropout"]


def test_tags_of_a_group(cli):
    assert cli("-m", *STUDENT, "seed=0,1", "tags=[a]").code == 0
    assert [metrics(run)["tags"] for run in complete()] == ["a", "a"]


@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1"), ("-m", "seed=0,1", "basic")])
def test_the_settings_are_shown_once(cli, words):
    words = [word.replace("basic", "hydra/launcher=basic") for word in words]
    said = cli(*STUDENT, *words, "kd.T=3", "print_config=true", "tags=[a]")
    assert said.code == 0, said.err
    lines = [line.strip("│├└─ ") for line in said.out.splitlines()]
    for line in ("T: 3.0", "tags: [a]", "callbacks: {}", "_target_: kd.training.curves.Curves"):
        assert lines.count(line) == 1, line
    assert lines.index("T: 3.0") < next(n for n, line in enumerate(lines) if "epoch 1/2" in line)


def test_without_being_asked_nothing_is_shown(cli):
    assert "_target_" not in cli(*STUDENT).out
