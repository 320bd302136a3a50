"""Students of a group that differ in more than numbers of a loss, and those that end early.

tests/unit/sweeps/test_one_step.py compares single steps of such groups to many more digits.
"""

import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import assert_equal_up_to_rounding, distance, interrupting, metrics, runs
from hydra.core.plugins import Plugins

from kd.sweeps import module as fused
from kd.sweeps.stack import Stack

DIGITS = ("data=mnist_mini", "data.batch_size=32")  # 25 batches per epoch


@pytest.fixture
def study(cli, teacher) -> Callable[..., dict[str, Path]]:
    """A sweep in a study of its own, with the teacher of the others unless it names some."""

    def run(name: str, *words: str, code: int = 0) -> dict[str, Path]:
        given = [] if "teacher.checkpoint" in str(words) else [f"teacher.checkpoint={teacher}"]
        said = cli("-m", *DIGITS, f"study={name}", *given, *words)
        assert said.code == code, said.out + said.err
        assert "Traceback" not in said.out + said.err
        run.out = said.out
        return runs(name, "student" if "stage=student" in words else "distill")

    return run


@pytest.fixture
def shrinks(monkeypatch) -> list[int]:
    """Makes the stack smaller whenever a student has ended; how many are left each time."""
    sizes: list[int] = []
    shrink = fused.GroupModule._shrink

    def noted(self: fused.GroupModule) -> None:
        shrink(self)
        sizes.append(len(self.counted))

    monkeypatch.setattr(Stack, "remake", 0)
    monkeypatch.setattr(fused, "COMPILING", 0)
    monkeypatch.setattr(fused.GroupModule, "_shrink", noted)
    return sizes


def models(found: dict[str, Path]) -> dict[str, bytes]:
    return {name: (run / "model.ckpt").read_bytes() for name, run in found.items()}


def any_settings(rng: random.Random) -> list[str]:
    """The words of a student, whatever it is."""
    methods = {"hinton": 3, "dkd": 1, "dist": 1, "hint": 1, "pkt": 1, "logit_std": 1}
    (method,) = rng.choices(list(methods), weights=list(methods.values()))
    return [
        "stage=distill",
        f"kd={method}",
        f"kd.T={rng.choice([1, 3.5])}",
        f"kd.alpha={rng.choice([0, 0.3, 1])}",
        f"seed={rng.choice([0, 1])}",
        f"model.hidden={rng.choice([16, 24, 32])}",
        f"model.dropout={rng.choice([0, 0.1, 0.3])}",
        f"optim.lr={rng.choice([0.001, 0.003, 0.01])}",
        f"optim.weight_decay={rng.choice([0, 0.01])}",
        f"optim.betas={rng.choice(['[0.9,0.999]', '[0.8,0.99]'])}",
        f"optim.schedule={rng.choice(['cosine', 'constant', 'onecycle'])}",
        f"optim.label_smoothing={rng.choice([0, 0.1])}",
        f"data.label_noise={rng.choice([0, 0.2])}",
        f"trainer.max_epochs={rng.randint(3, 8)}",
        f"checkpoint={rng.choice(['last', 'best'])}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_any_settings_together_as_one_by_one(cli, study, teacher, shrinks, monkeypatch, number):
    rng = random.Random(number)
    shutil.copy(teacher / "model.ckpt", "one.ckpt")
    jobs = [[*DIGITS, "teacher.checkpoint=one.ckpt", *any_settings(rng)] for _ in range(12)]
    for job in jobs:
        said = cli("study=alone", *job)
        assert said.code == 0, said.err
    swept = [[["study=together", *job] for job in jobs]]  # which no product of values gives
    Plugins.instance()  # has loaded Hydra's sweeper by then
    sweeper = sys.modules["hydra._internal.core_plugins.basic_sweeper"].BasicSweeper
    monkeypatch.setattr(sweeper, "split_arguments", staticmethod(lambda *_: swept))
    together = study("together", "stage=distill", "seed=0,1")
    assert re.findall(r"\d+ students train together", study.out) == ["12 students train together"]
    assert "train alone" not in study.out
    assert len(shrinks) > 1
    assert len(together) == 12
    assert_equal_up_to_rounding(together, runs("alone"))


@pytest.mark.slow
def test_methods_and_teachers_are_of_one_group(cli, study, teacher):
    assert cli("stage=teacher", *DIGITS, "trainer.max_epochs=2", "seed=1").code == 0
    (other,) = set(teacher.parent.iterdir()) - {teacher}
    for folder, name in ((teacher, "one.ckpt"), (other, "two.ckpt")):
        shutil.copy(folder / "model.ckpt", name)
    sweep = ("stage=distill", "kd=hinton,dkd,hint", "teacher.checkpoint=one.ckpt,two.ckpt")
    sweep += ("trainer.max_epochs=4", "model.hidden=16", "optim.lr=0.001")
    together = study("together", *sweep)
    assert "6 students train together on cpu: stage=distill kd=dkd,hint,hinton" in sorted_methods(
        study.out
    )
    assert_equal_up_to_rounding(together, study("alone", *sweep, "hydra/launcher=basic"))
    by_teacher = {metrics(run)["teacher/checkpoint"]: run for run in together.values()}
    assert len(by_teacher) == 2
    assert distance(*by_teacher.values()) > 0.01


def sorted_methods(said: str) -> str:
    """What a sweep said, the methods of its group in the order of the alphabet."""
    return re.sub(r"kd=([\w,]+)", lambda m: "kd=" + ",".join(sorted(m[1].split(","))), said)


LEAVING = [
    "stage=student optim=sgd optim.schedule=onecycle seed=0,1,2",
    "stage=distill kd.alpha=0.2,0.8,1 seed=0,1",
    "stage=distill kd=hint model.hidden=16,24 kd.warmup_epochs=3 optim.lr=0.001",
    "stage=distill data.augment.shift=1 model.dropout=0,0.2",
]


@pytest.mark.slow
@pytest.mark.parametrize("words", LEAVING)
def test_those_that_stay_train_as_alone(study, shrinks, words):
    sweep = (*words.split(), "trainer.max_epochs=2,5,8")
    first = study("first", *sweep)
    assert len(re.findall("students train together", study.out)) == 1
    assert len(shrinks) == 2
    assert {metrics(run)["epochs"] for run in first.values()} == {2, 5, 8}
    assert_equal_up_to_rounding(first, study("alone", *sweep, "hydra/launcher=basic"))
    assert models(study("again", *sweep)) == models(first)


@pytest.mark.slow
def test_a_list_of_one_width_is_that_width(study):
    sweep = ("stage=student", "trainer.max_epochs=2", "seed=0,1", "model.dropout=0.3")
    lists = study("lists", *sweep, "model.hidden=[16],24")
    assert "4 students train together" in study.out
    plain = study("plain", *sweep, "model.hidden=16,24")
    for name, run in lists.items():
        assert distance(run, plain[name.replace("_16_", "16")]) == 0


@pytest.mark.slow
def test_a_smaller_stack_makes_no_difference(study, shrinks, monkeypatch):
    sweep = ("stage=distill", "kd.T=2,5", "trainer.max_epochs=2,8", "seed=0,1")
    small = study("small", *sweep)
    assert shrinks == [4]
    monkeypatch.setattr(Stack, "remake", 10**9)
    large = study("large", *sweep)
    assert shrinks == [4]
    assert_equal_up_to_rounding(small, large)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [2, 3, 5, 7])
@pytest.mark.parametrize("words", LEAVING[1:3])
def test_an_interrupted_sweep_goes_on_with_those_that_stay(
    cli, teacher, study, shrinks, epoch, words
):
    sweep = (*words.split(), "trainer.max_epochs=2,5,8")
    whole = study("whole", *sweep)
    with interrupting(epoch):
        assert not study("cut", *sweep, code=130)
    again = study("cut", *sweep)
    assert f"an earlier attempt ended after epoch {epoch}: continuing" in study.out
    assert models(again) == models(whole)
    for name, run in again.items():
        assert (run / "history.csv").read_bytes() == (whole[name] / "history.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_patience_stops_each_student_where_it_stops_alone(study, shrinks, schedule):
    sweep = ("stage=student", "trainer.patience=1,3,null", "seed=0,1", "trainer.max_epochs=15")
    sweep += ("optim.lr=0.03", f"optim.schedule={schedule}", "checkpoint=last")
    together = study("together", *sweep)
    assert "6 students train together" in study.out
    alone = study("alone", *sweep, "hydra/launcher=basic")
    epochs = {name: metrics(run)["epochs"] for name, run in together.items()}
    assert epochs == {name: metrics(run)["epochs"] for name, run in alone.items()}
    assert shrinks
    assert len(set(epochs.values())) > 2
    assert_equal_up_to_rounding(together, alone)
    assert models(study("again", *sweep)) == models(together)


@pytest.mark.slow
@pytest.mark.parametrize("shrink", [True, False])
def test_a_student_that_diverges_leaves_the_others_alone(study, shrinks, monkeypatch, shrink):
    if not shrink:
        monkeypatch.setattr(Stack, "remake", 10**9)
    sweep = ("stage=distill", "optim=sgd", "trainer.max_epochs=6", "seed=0,1", "kd.T=1,4")
    healthy = study("healthy", *sweep, "optim.lr=0.01")
    assert not shrinks
    ill = study("ill", *sweep, "optim.lr=0.01,1e12", code=1)
    assert study.out.count("FAILED: training diverged: train/loss is") == 4
    assert "8 students train together" in study.out
    assert shrinks == ([4] if shrink else [])
    assert ill.keys() == healthy.keys()
    assert_equal_up_to_rounding(ill, healthy)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "differing"),
    [
        (("data.batch_size=16,32", "model.dropout=0,0.1"), "data.batch_size"),
        (("optim=adam,sgd", "optim.lr=0.01,0.02"), "optim.name"),
        (("model.hidden=2,3,32,33",), "model.hidden by a factor over 8"),
        (("data.train_size=200,300", "seed=0,1"), "the number of images per epoch"),
    ],
)
def test_what_keeps_groups_apart_is_said_once(cli, teacher, words, differing):
    said = cli("-m", "stage=student", "data=mnist_mini", "trainer.max_epochs=1", *words)
    assert said.code == 0, said.err
    assert said.out.count(f"their runs differ in {differing}\n") == 1
    assert "2 groups: their runs differ in" in said.out
    assert "train alone" not in said.out
