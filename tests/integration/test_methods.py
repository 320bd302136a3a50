"""The methods in trainings: what each needs of the networks, and procedures around them."""

from pathlib import Path

import pytest
import torch
from helpers import MINI, complete, metrics, one_line, weights

from kd.methods import METHODS
from kd.models.mlp import MLP
from kd.models.network import build_model
from kd.training.run_folder import read_study


def test_a_stopped_teacher_plays_no_part(cli, teacher):
    for words in (("kd.stop_epoch=1",), ("kd.stop_epoch=2",), ("kd.stop_epoch=null",)):
        assert cli("stage=distill", *MINI, "kd.alpha=0", *words).code == 0
    first, second, never = (metrics(run) for run in complete() if "distill" in str(run))
    assert second["train/loss"] == never["train/loss"]
    assert second["test/loss"] == never["test/loss"]
    assert first["test/loss"] != never["test/loss"]
    assert first["kd/stop_epoch"] == 1


def test_attention_transfer_trains_a_network_with_feature_maps(cli, teacher):
    said = cli("stage=distill", *MINI, "kd=at", "model=cnn", "model.channels=[2,4]", "kd.alpha=0.2")
    assert said.code == 0, said.err
    (run,) = (run for run in complete() if run.parent.name == "distill")
    found = metrics(run)
    assert found["kd/method"] == "at"
    assert found["test/acc"] > 0.15
    assert 0 < found["train/loss"] < 1e4


@pytest.mark.parametrize("method", ["rkd", "hint", "at", "function_matching"])
def test_at_alpha_1_a_method_is_plain_training_bit_for_bit(cli, teacher, method):
    words = ("model=cnn", "model.channels=[2,4]") if METHODS[method].needs_maps else ()
    if method == "function_matching":
        words = ("data.augment.shift=2", "data.augment.rotate=15", "data.augment.mixup=1")
    assert cli("stage=student", *MINI, *words, "optim.lr=0.003").code == 0
    words = (*words, f"kd={method}", "kd.alpha=1", "optim.lr=0.003")
    assert cli("stage=distill", *MINI, *words).code == 0
    distilled, alone = (weights(run) for run in complete() if run.parent.name != "teacher")
    assert all(torch.equal(distilled[key], alone[key]) for key in alone)


def test_attention_transfer_needs_feature_maps(cli, teacher):
    said = cli("stage=distill", *MINI, "kd=at")
    assert said.code == 1
    one_line(
        said.err, "kd.method=at: compares feature maps, which model=mlp does not have; give model=c"
    )
    cli("stage=student", *MINI)
    (student,) = Path("outputs/main/student").iterdir()
    said = cli("stage=distill", *MINI, "kd=at", "model=cnn", f"teacher.checkpoint={student}")
    one_line(said.err, "which the teacher has not; give a single network with maps, such as model")
    said = cli("stage=distill", *MINI, "kd=at", "model=cnn", "model.channels=[4]")
    one_line(
        said.err, "model.channels=[4]: kd.method=at compares block by block with the teacher's"
    )


def test_hints_of_another_width_pass_through_a_regressor(cli, teacher):
    words = ("stage=distill", *MINI, "kd=hint", "model.hidden=8", "kd.alpha=0", "seed=1")
    assert cli(*words).code == 0
    (run,) = (run for run in complete() if "distill" in str(run))
    assert metrics(run)["train/loss"] > 0
    expected = {k: v.shape for k, v in build_model(MLP(hidden=8), 0).state_dict().items()}
    assert {k: v.shape for k, v in weights(run).items()} == expected, "the student alone is kept"
    start = build_model(MLP(hidden=8), 1).state_dict()
    assert not torch.equal(weights(run)["dense.weight"], start["dense.weight"])


@pytest.mark.parametrize("method", ["cosine", "cc"])
def test_other_methods_of_the_hidden_layer_say_what_width_they_need(cli, teacher, method):
    said = cli("stage=distill", *MINI, f"kd={method}", "model.hidden=8")
    assert said.code == 1
    one_line(
        said.err, f"model.hidden=8: kd.method={method} compares it unit by unit with the teach"
    )


def test_a_teacher_can_be_stopped_early(cli):
    assert cli("stage=teacher", *MINI, "keep_epochs=true").code == 0
    (run,) = complete()
    first, last = run / "epochs" / "1.ckpt", run / "epochs" / "2.ckpt"
    contents = [torch.load(path, weights_only=True) for path in (first, last, run / "model.ckpt")]
    assert [content["epoch"] for content in contents] == [1, 2, 2]
    early, late, final = (content["state_dict"] for content in contents)
    assert all(torch.equal(late[key], final[key]) for key in final)
    assert not torch.equal(early["dense.weight"], final["dense.weight"])
    assert cli("stage=distill", *MINI, f"teacher.checkpoint={first}").code == 0
    assert cli("stage=distill", *MINI).code == 0
    by_early, by_last = (metrics(run) for run in complete()[:2])
    assert by_early["teacher/checkpoint"] == str(first)
    assert by_early["fidelity/kl"] != by_last["fidelity/kl"]


def test_epochs_are_not_thought_kept_where_they_are_not(cli, teacher):
    said = cli("stage=teacher", *MINI, "keep_epochs=true")
    assert said.code == 1
    one_line(said.err, "keep_epochs (false there, true here)")
    assert cli("stage=teacher", *MINI, "keep_epochs=true", "overwrite=true").code == 0
    assert (teacher / "epochs" / "2.ckpt").exists()
    assert "skipped" in cli("stage=teacher", *MINI).out, "not asking for them is another matter"


def test_a_distilled_run_can_teach_the_next_one(cli, teacher):
    """Teacher, assistant, student; and born again: the student's network is the teacher's."""
    assert cli("stage=distill", *MINI, "model.hidden=64").code == 0
    (assistant,) = (run for run in complete() if "distill" in str(run))
    words = ("+experiment=assistant", *MINI, f"teacher.checkpoint={assistant}")
    assert cli(*words).code == 0
    (student,) = complete("assistant")
    found = metrics(student)
    assert found["stage"] == "distill"
    assert found["teacher/checkpoint"] == str(assistant / "model.ckpt")
    assert found["model/hidden"] == 8
    words = ("model=cnn", "study=born", f"teacher.checkpoint={teacher}")
    assert cli("stage=distill", *MINI, *words).code == 0
    (again,) = complete("born")
    assert weights(again).keys() == weights(teacher).keys()
    assert read_study(Path("outputs/born"))[0]["model/name"] == "cnn"


def test_at_alpha_1_a_student_of_views_is_the_student_alone(cli, teacher):
    views = ("data.augment.mixup=1", "data.augment.rotate=10")
    assert cli("stage=student", *MINI, *views).code == 0
    assert cli("stage=distill", *MINI, *views, "kd.alpha=1").code == 0
    distilled, alone = (metrics(run) for run in complete() if run.parent.name != "teacher")
    assert alone["train/loss"] == distilled["train/loss"]
    assert alone["test/loss"] == distilled["test/loss"]
    assert alone["data/augment/mixup"] == 1


def test_function_matching_is_hintons_loss_on_views(cli, teacher):
    words = ("data.augment.shift=2", "data.augment.rotate=15", "data.augment.mixup=1")
    assert cli("stage=distill", *MINI, "kd=function_matching").code == 0
    assert cli("stage=distill", *MINI, "kd.T=1", "kd.alpha=0", *words).code == 0
    one, other = read_study(teacher.parents[1])[:2]
    assert {one["kd/method"], other["kd/method"]} == {"hinton", "function_matching"}
    assert one["test/loss"] == other["test/loss"]
