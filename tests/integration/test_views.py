"""Students on a bank of views: repeated, interrupted, in a group and alone; their teachers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    MINI,
    assert_equal_up_to_rounding,
    complete,
    distance,
    interrupting,
    metrics,
    one_line,
    runs,
    weights,
)

from kd.training import kept_outputs

VIEWS = "data.views=shift2"
DISTILL = ("stage=distill", "data=mnist_mini", "data.batch_size=32", "trainer.max_epochs=4", VIEWS)


@pytest.mark.slow
def test_a_teacher_of_plain_images_teaches_a_student_of_views_and_the_other_way_round(cli, teacher):
    assert cli(*DISTILL).code == 0
    (run,) = complete(stage="distill")
    assert VIEWS in run.name
    assert metrics(run)["data/views"] == "shift2"
    assert metrics(run)["data/fingerprint"] == metrics(teacher)["data/fingerprint"]
    assert cli("stage=teacher", *MINI, "data.views=shift1", "study=moved").code == 0
    assert metrics(*complete("moved"))["data/views"] == "shift1"
    assert cli("stage=distill", *MINI, "study=moved").code == 0


@pytest.mark.slow
def test_the_same_command_gives_the_same_bits(cli, teacher):
    given = f"teacher.checkpoint={teacher}"
    for study in ("one", "two"):
        assert cli(*DISTILL, given, f"study={study}").code == 0
    assert cli(*DISTILL, given, "study=other", "data.views=shift1").code == 0
    one, two, other = (complete(study)[0] for study in ("one", "two", "other"))
    assert distance(one, two) == 0
    assert distance(one, other) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m", "kd.T=1,4", "seed=0,1")], ids=["alone", "group"])
def test_an_interrupted_training_goes_on_with_the_same_bits(cli, teacher, sweep):
    words = (*sweep, *DISTILL, f"teacher.checkpoint={teacher}")
    assert cli(*words, "study=whole").code == 0
    with interrupting(2):
        assert cli(*words, "study=cut").code == 130
    assert "after epoch 2: continuing" in cli(*words, "study=cut").out
    whole, cut = runs("whole"), runs("cut")
    assert len(whole) == (4 if sweep else 1)
    assert whole.keys() == cut.keys()
    assert all(distance(run, cut[name]) == 0 for name, run in whole.items())


TOGETHER = {
    "alone": ("stage=student", "seed=0,1,2", "data.label_noise=0,0.2"),
    "distilled": ("stage=distill", "seed=0,1", "kd.T=1,4", "kd.alpha=0,0.5"),
    "hidden": ("stage=distill", "seed=0,1", "kd=hint", "model.hidden=16", "optim.lr=0.001"),
    "unlabelled": ("stage=distill", "seed=0,1", "data.train_size=300", "data.unlabelled=true"),
    "stack": ("stage=distill", "seed=0,1", "model.hidden=[16,8]", "optim.lr=0.001", "kd.alpha=0,1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("which", TOGETHER)
def test_students_together_are_those_alone(cli, teacher, which):
    words = (*DISTILL[1:], f"teacher.checkpoint={teacher}", "trainer.stack=always")
    words += ("trainer.group_mb=500",)
    sweep = ("-m", *words, *TOGETHER[which])
    said = cli(*sweep, "study=together")
    assert said.code == 0, said.err
    assert "students train together" in said.out
    assert "train alone" not in said.out
    assert cli(*sweep, "study=alone", "hydra/launcher=basic").code == 0
    stage = TOGETHER[which][0].removeprefix("stage=")
    assert_equal_up_to_rounding(runs("together", stage), runs("alone", stage))


def test_a_method_of_feature_maps_sees_the_teacher_live(cli, teacher):
    """Outputs are needed for the images themselves alone."""
    assert cli(*DISTILL, "kd=at", "model=cnn").code == 0
    assert cli(*MINI, "stage=distill").code == 0
    assert len(list(Path("outputs/main", kept_outputs.FOLDER).iterdir())) == 1


def test_at_alpha_1_a_student_on_views_is_the_student_alone(cli, teacher):
    assert cli(*DISTILL, "kd.alpha=1").code == 0
    assert cli(*DISTILL, "stage=student").code == 0
    distilled, alone = (weights(*complete(stage=stage)) for stage in ("distill", "student"))
    assert all(torch.equal(value, alone[name]) for name, value in distilled.items())


def test_outputs_without_room_are_refused(cli, teacher, monkeypatch):
    monkeypatch.setattr("kd.training.teacher.free_bytes", lambda device: 100_000)
    said = cli(*DISTILL)
    assert said.code == 1
    one_line(said.err, "the teacher's outputs for 20,400 images take about 1 MB, and 0 MB are free")


def test_shifts_out_of_sight_are_refused(cli):
    images, labels = np.zeros((60, 3, 9), np.uint8), np.arange(60) % 3
    np.savez("tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = ("stage=student", "data=npz", "data.file=tiny.npz", "data.val_size=12")
    said = cli(*words, VIEWS)
    assert said.code == 1
    one_line(said.err, "data.views=shift2: moves images of 3 × 9 out of sight")
    assert cli(*words, "data.views=shift1", "trainer.max_epochs=1").code == 0


def test_a_missing_teacher_need_not_see_views(cli):
    said = cli(*DISTILL)
    assert said.code == 1
    assert "data.views" not in said.err
    assert "first run: python train.py stage=teacher data=mnist_mini" in said.err
