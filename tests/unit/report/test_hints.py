"""What to try: a sentence where the study has evidence for it, and none where it has not."""

from itertools import product
from pathlib import Path

import pytest
from helpers import make_up_run

from kd.config.schema import Config
from kd.report.hints import show_hints, suggest
from kd.report.study import load_study

NOISE = (0.0004, -0.0003, 0.0002)


def make_up(
    study: Path, gains: dict[float, float], teacher: float = 0.99, seeds: int = 3, **settings
) -> None:
    """A study at alpha = 0 and 1, with these gains by temperature at alpha = 0."""
    make_up_run(study, "teacher", teacher)
    for seed in range(seeds):
        make_up_run(study, "student", 0.96, seed, **settings)
        for (T, gain), alpha in product(gains.items(), (0.0, 1.0)):
            accuracy = 0.96 if alpha else 0.96 + gain + NOISE[seed] * T / 10
            make_up_run(study, "distill", accuracy, seed, kd__T=T, kd__alpha=alpha, **settings)


def hints(study: Path) -> list[str]:
    return suggest(load_study(study))


def test_a_high_temperature_that_harms(tmp_path):
    make_up(tmp_path, {1.0: 0.001, 6.0: -0.002, 10.0: -0.007}, model__hidden=32)
    (said,) = hints(tmp_path)
    assert said.startswith("T = 10 is 0.79 points worse than T = 1 at alpha = 0 (95 % interval −0.")
    assert "n = 3)" in said
    assert said.endswith("try T from 2 to 4, or a wider student: -m … model.hidden=32,128,512.")


def test_temperatures_that_are_there_are_not_suggested(tmp_path):
    make_up(tmp_path, {1.0: 0.001, 3.0: 0.002, 10.0: -0.007})
    (said,) = hints(tmp_path)
    assert said.endswith("try a wider student.")


@pytest.mark.parametrize("hot", [0.0012, 0.003])
def test_a_temperature_that_does_no_harm_is_not_mentioned(tmp_path, hot):
    make_up(tmp_path, {1.0: 0.001, 10.0: hot})
    assert hints(tmp_path) == []


def test_one_seed_shows_no_harm(tmp_path):
    make_up(tmp_path, {1.0: 0.001, 10.0: -0.02}, seeds=1)
    assert hints(tmp_path) == []


def test_a_student_with_dropout(tmp_path):
    make_up(tmp_path, {2.0: 0.001}, model__dropout=0.1)
    (said,) = hints(tmp_path)
    assert said.startswith("The student drops 10 % of its hidden units")
    assert said.endswith("try model.dropout=0.")


def test_dropout_that_was_left_out_already_is_not_mentioned(tmp_path):
    make_up(tmp_path, {2.0: 0.001}, model__dropout=0.1)
    own = {"kd__T": 2.0, "kd__alpha": 0.0, "model__dropout": 0.0}
    make_up_run(tmp_path, "distill", 0.96, **own)
    assert hints(tmp_path) == []


def test_a_teacher_that_has_little_to_add(tmp_path):
    make_up(tmp_path, {2.0: 0.0}, teacher=0.9615)
    study = load_study(tmp_path)
    assert study.teacher is None, "its network is not there"
    assert suggest(study) == []
    (folder,) = tmp_path.glob("teacher/*")
    (folder / "model.ckpt").write_text("a network")
    teach(tmp_path, folder)
    (said,) = hints(tmp_path)
    assert said == (
        "The teacher, at 96.15 %, has little to add to the student alone, at 96.00 % (n = 3); try "
        "fewer labels (data.train_size=1000), or views of the images (data.augment.shift=2)."
    )


def teach(study: Path, teacher: Path) -> None:
    """Have the study's distilled runs name this teacher as theirs."""
    from kd.files import file_hash

    sha256 = file_hash(teacher / "model.ckpt")
    for path in study.glob("distill/*/metrics.json"):
        path.write_text(path.read_text().replace("a" * 64, sha256))


@pytest.mark.parametrize(("accuracy", "gain"), [(0.97, 0.0), (0.9615, 0.006)])
def test_a_better_teacher_or_one_that_helps_is_not_doubted(tmp_path, accuracy, gain):
    make_up(tmp_path, {2.0: gain}, teacher=accuracy)
    (folder,) = tmp_path.glob("teacher/*")
    (folder / "model.ckpt").write_text("a network")
    teach(tmp_path, folder)
    assert load_study(tmp_path).verdict.word == ("works" if gain else "does not work")
    assert hints(tmp_path) == []


def test_all_are_said_on_the_page_and_in_the_terminal(tmp_path):
    make_up(tmp_path, {1.0: 0.001, 10.0: -0.007}, model__dropout=0.1)
    (section,) = show_hints(load_study(tmp_path), Config())
    assert section.title == "What to try"
    assert [line.split(":")[0] for line in section.said] == ["to try", "to try"]
    assert section.text.count("; try ") == 2


def test_a_study_without_distilled_runs_has_none(tmp_path):
    make_up_run(tmp_path, "student", 0.9, model__dropout=0.1)
    assert show_hints(load_study(tmp_path), Config()) == []
