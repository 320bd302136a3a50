"""Students that are taught other logits than the teacher's own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    MINI,
    assert_equal_up_to_rounding,
    complete,
    distance,
    metrics,
    one_line,
    runs,
)

from kd import load_study
from kd.metrics import agreement
from kd.training import kept_outputs

DISTILL = ("stage=distill", *MINI)
SWEPT = ("teacher.control=none,permuted,confidence", "teacher.clip=null,3")


def logits(run: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(run / "predictions.npz")["logits"])


@pytest.fixture
def swept(cli, teacher):
    """Every control with and without clipping, of a group; and what the sweep said."""
    said = cli("-m", *DISTILL, *SWEPT, "kd.alpha=0")
    assert said.code == 0, said.err
    return runs("main"), said.out


def test_controls_make_one_group_and_other_students(swept, teacher):
    found, said = swept
    assert "6 students train together" in said
    assert len({metrics(run)["train/loss"] for run in found.values()}) == 6
    (both,) = (r for name, r in found.items() if "clip=3.0,teacher.control=permuted" in name)
    assert metrics(both)["teacher/control"] == "permuted"
    assert metrics(both)["teacher/clip"] == 3


def test_fidelity_is_to_the_teacher_itself(swept, teacher):
    for run in swept[0].values():
        expected = agreement(logits(run), logits(teacher)).item()
        assert metrics(run)["fidelity/agreement"] == pytest.approx(expected)
    assert len(list(Path("outputs/main", kept_outputs.FOLDER).iterdir())) == 1


def test_the_report_keeps_them_apart(swept, teacher, cli):
    assert cli("stage=student", *MINI).code == 0
    study = load_study("outputs/main")
    assert len(study.cells) == len(study.methods) == 6
    assert all(list(cell.runs) == [0] and cell.method.controls for cell in study.cells)
    assert "hinton, teacher.clip=3.0, teacher.control=confidence" in {
        method.label for method in study.methods
    }


@pytest.mark.slow
def test_controls_together_as_one_by_one(swept, cli):
    shutil.copytree("outputs/main/teacher", "outputs/alone/teacher")
    words = ("-m", *DISTILL, *SWEPT, "kd.alpha=0", "study=alone", "hydra/launcher=basic")
    assert cli(*words).code == 0
    assert_equal_up_to_rounding(swept[0], runs("alone"))


def test_without_a_teachers_part_a_control_is_nothing(cli, teacher):
    assert cli("stage=student", *MINI).code == 0
    (alone,) = complete(stage="student")
    for words in (("teacher.control=permuted",), ("teacher.clip=1",)):
        assert cli(*DISTILL, "kd.alpha=1", *words).code == 0
    for run in complete(stage="distill"):
        assert distance(run, alone) == 0


REFUSED = [
    (
        "teacher.control=permuted kd=hint",
        "permuted: alters the teacher's logits, which kd.method=h",
    ),
    (
        "teacher.clip=3 kd=rkd",
        "teacher.clip=3: alters the teacher's logits, which kd.method=rkd do",
    ),
    (
        "teacher.control=permuted data.augment.shift=1",
        "has it see views instead; leave one of them",
    ),
    ("teacher.clip=3 kd=function_matching", "has it see views instead; leave one of them out"),
    (
        "teacher.control=confidence data.train_size=200 data.unlabelled=true",
        "teacher.control=confidence: needs the label of every image, which data.unlabelled=true",
    ),
    ("teacher.control=shuffled", "must be none or permuted or confidence"),
    ("teacher.clip=0", "teacher.clip=0: must be null or a number above 0"),
    ("teacher.clip=nan", "must be null or a number above 0"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[words for words, _ in REFUSED])
def test_what_cannot_be_controlled_is_refused(cli, words, said):
    result = cli(*DISTILL, *words.split())
    assert result.code == 1
    one_line(result.err, said)
    assert not list(Path().iterdir())


def test_what_is_a_teachers_or_a_students_matter_is_not_refused(cli):
    assert cli("stage=teacher", *MINI, "teacher.control=permuted", "data.augment.shift=1").code == 0


def test_two_classes_leave_nothing_to_permute(cli):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 255, (80, 6, 6)).astype(np.uint8), np.arange(80) % 2
    np.savez("two.npz", x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])
    two = ("data=npz", "data.file=two.npz", "trainer.max_epochs=1", "data.val_size=20")
    assert cli("stage=teacher", *two, "model=mlp").code == 0
    for control in ("permuted", "confidence"):
        said = cli("stage=distill", *two, f"teacher.control={control}")
        one_line(
            said.err, f"teacher.control={control}: is about the wrong classes of an image, and"
        )
    assert cli("stage=distill", *two, "teacher.clip=1").code == 0
