"""Students that train together: each as it would be alone, whatever trains beside it.

Whole trainings; of every method and setting, unit/sweeps/test_one_step.py compares gradients and
test_every_setting.py short trainings.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_equal_up_to_rounding, distance, interrupting, metrics, runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd.methods.hinton import Hinton
from kd.sweeps import module as fused
from kd.training.callbacks import Record

MINI = ("data=mnist_mini", "data.batch_size=32", "trainer.max_epochs=8")  # 200 steps
FILES = {".hydra", "history.csv", "metrics.json", "model.ckpt", "predictions.npz", "train.log"}


@pytest.fixture
def study(cli, teacher):
    """A sweep in a study of its own, with the teacher of the others."""

    def run(name: str, *words: str) -> dict[str, Path]:
        given = [] if any("split" in word for word in words) else [f"teacher.checkpoint={teacher}"]
        said = cli("-m", *MINI, f"study={name}", *given, *words)
        assert said.code == 0, said.err
        run.out, run.err = said.out, said.err
        return runs(name, "student" if "stage=student" in words else "distill")

    return run


@pytest.mark.slow
def test_a_grid_together_as_one_by_one(study):
    words = ("checkpoint=best", "optim=keras", "kd.direction=reverse")
    sweep = ("stage=distill", *words, "kd.T=1,4", "kd.alpha=0.5,1", "seed=0,1")
    together = study("together", *sweep)
    assert "6 students train together" in study.out, "at alpha = 1 one serves both temperatures"
    alone = study("alone", *sweep, "hydra/launcher=basic")
    assert len(together) == 8
    assert together.keys() == alone.keys()
    assert_equal_up_to_rounding(together, alone)


@pytest.mark.slow
def test_schedules_views_and_regressors_together_as_one_by_one(study):
    words = (
        "kd=hint",
        "model.hidden=16",
        "optim.lr=0.001",
        "kd.warmup_epochs=3",
        "kd.stop_epoch=6",
    )
    views = ("data.augment.shift=2", "data.augment.mixup=0.5", "data.augment.extra=1")
    sweep = ("stage=distill", *words, *views, "kd.alpha=0,0.5", "seed=0,1")
    together = study("together", *sweep)
    assert "4 students train together" in study.out
    assert_equal_up_to_rounding(together, study("alone", *sweep, "hydra/launcher=basic"))


OPTIMISERS = [
    *("optim=adam optim.weight_decay=0.01", "optim=adamw", "optim=sgd"),
    *("optim.schedule=onecycle", "optim=adamw optim.schedule=onecycle"),
    "optim=sgd optim.schedule=onecycle optim.weight_decay=0.001",
]


@pytest.mark.slow
@pytest.mark.parametrize("words", OPTIMISERS)
def test_every_optimiser_together_as_one_by_one(study, words):
    sweep = ("stage=distill", *words.split(), "optim.lr=0.003", "kd.alpha=0,0.5", "seed=0,1")
    together = study("together", *sweep)
    assert "4 students train together" in study.out
    assert_equal_up_to_rounding(together, study("alone", *sweep, "hydra/launcher=basic"))


@pytest.mark.parametrize("limit", [1, 7])
def test_a_limit_of_batches_holds_together_as_one_by_one(study, limit):
    sweep = ("stage=student", "seed=0,1", f"trainer.limit_batches={limit}")
    views = ("data.augment.shift=2", "optim.schedule=onecycle")
    together = study("together", *sweep, *views)
    assert "2 students train together" in study.out
    assert_equal_up_to_rounding(together, study("alone", *sweep, *views, "hydra/launcher=basic"))


@pytest.mark.slow
def test_a_methods_own_weights_are_numbers_of_a_cell(study):
    sweep = ("stage=distill", "kd=dist", "kd.between_weight=0,2", "kd.within_weight=1,3")
    found = study("one", *sweep)
    assert "4 students train together" in study.out
    assert len({metrics(run)["test/loss"] for run in found.values()}) == 4


@pytest.mark.slow
def test_when_the_teacher_stops_is_a_number_of_a_cell(study):
    found = study("one", "stage=distill", "kd.alpha=0.1", "kd.stop_epoch=2,8,null")
    assert "3 students train together" in study.out
    by_stop = {metrics(run)["kd/stop_epoch"]: run for run in found.values()}
    assert by_stop.keys() == {2, 8, None}
    assert distance(by_stop[8], by_stop[None]) < 1e-4, "8 epochs are all there are"
    assert distance(by_stop[2], by_stop[None]) > 0.01


@pytest.mark.slow
def test_students_alone_train_together_over_seeds(study):
    together = study("together", "stage=student", "seed=0,1,2")
    assert "3 students train together" in study.out
    alone = study("alone", "stage=student", "seed=0,1,2", "hydra/launcher=basic")
    assert_equal_up_to_rounding(together, alone)
    assert len({metrics(run)["test/loss"] for run in together.values()}) == 3


@pytest.mark.slow
def test_the_company_does_not_matter(study):
    pair = study("pair", "stage=distill", "kd.T=2,5", "kd.alpha=0.5")
    many = study("many", "stage=distill", "kd.T=7,5,2", "kd.alpha=0.9,0.5", "seed=1,0")
    assert "12 students train together" in study.out
    halves = study("halves", "stage=distill", "kd.T=5,2", "kd.alpha=0.5,0.7", "trainer.group_mb=2")
    assert "2 students train together" in study.out
    assert_equal_up_to_rounding(pair, many)
    assert_equal_up_to_rounding(pair, halves)


def test_without_labels_weight_the_temperature_is_nothing(study):
    found = study("one", "stage=distill", "kd.T=1,2,5", "kd.alpha=0.5,1")
    same = [run for name, run in found.items() if "alpha=1.0" in name]
    assert len(same) == 3
    for run in same[1:]:
        assert distance(run, same[0]) == 0
        assert metrics(run)["test/loss"] == metrics(same[0])["test/loss"]


@pytest.mark.slow
def test_every_run_has_every_file_and_curve(study):
    sweep = ("stage=distill", "kd.T=1,4", "seed=0,1")
    together, alone = study("together", *sweep), study("alone", *sweep, "hydra/launcher=basic")
    for name, run in together.items():
        events = {path.name for path in run.glob("events.out.tfevents.*")}
        assert {path.name for path in run.iterdir()} == FILES | events
        assert len(list((run / ".hydra").iterdir())) == 3
        curves, expected = (EventAccumulator(str(r)).Reload() for r in (run, alone[name]))
        assert set(curves.Tags()["scalars"]) == set(expected.Tags()["scalars"])
        for tag in ("train/loss", "train/acc", "val/loss", "val/acc", "train/lr"):
            mine, its = curves.Scalars(tag), expected.Scalars(tag)
            assert [e.step for e in mine] == [e.step for e in its] == list(range(1, 9))
            np.testing.assert_allclose(
                [e.value for e in mine], [e.value for e in its], rtol=1e-3, atol=1e-6
            )
        mine, its = (pd.read_csv(r / "history.csv") for r in (run, alone[name]))
        pd.testing.assert_frame_equal(mine, its, rtol=1e-3, atol=1e-6)
        log = (run / "train.log").read_text()
        assert "trained together with 3 other students" in log
        assert f"epoch 8/8  train loss {metrics(run)['train/loss']:.4f}" in log
    assert not Path("outputs/together/unfinished").exists()
    assert Path("outputs/together/results.csv").read_text().count("\n") == 5


def test_curves_appear_while_the_group_trains(study, monkeypatch):
    seen = []

    def look(self, trainer, pl_module):
        on_train_epoch_end(self, trainer, pl_module)
        for run in Path("outputs/main/distill").iterdir():
            seen.append(len(EventAccumulator(str(run)).Reload().Scalars("val/acc")))

    on_train_epoch_end = Record.on_train_epoch_end
    monkeypatch.setattr(Record, "on_train_epoch_end", look)
    study("main", "stage=distill", "kd.T=1,4")
    assert seen == [epoch for epoch in range(1, 9) for _ in range(2)]


def test_a_student_that_diverges_fails_alone(cli, teacher, study, monkeypatch):
    sweep = ("stage=distill", "kd.T=1,4,9")
    healthy = study("healthy", *sweep)
    term = Hinton.term

    def poisoned(self, student, teacher, labels):
        good = term(self, student, teacher, labels)
        return torch.where(torch.as_tensor(self.T) == 4, torch.nan, 1.0) * good

    monkeypatch.setattr(Hinton, "term", poisoned)
    said = cli("-m", *MINI, "study=ill", f"teacher.checkpoint={teacher}", *sweep)
    assert said.code == 1
    assert said.out.count("FAILED: training diverged: train/loss is nan in epoch 1; try a") == 1
    assert "2 of 3 runs complete" in said.out
    found = runs("ill")
    assert len(found) == 2
    for name, run in found.items():
        assert distance(run, healthy[name]) == 0
    for log in Path("outputs/ill/distill").glob("T=4*/train.log"):
        assert "training diverged" in log.read_text()


@pytest.mark.slow
def test_complete_runs_are_left_out(study):
    first = study("main", "stage=distill", "kd.T=2,3")
    before = {run: (run / "model.ckpt").read_bytes() for run in first.values()}
    more = study("main", "stage=distill", "kd.T=1,2,3,4")
    assert study.out.count("complete already, skipped") == 2
    assert "2 students train together" in study.out
    assert len(more) == 4
    assert all((run / "model.ckpt").read_bytes() == content for run, content in before.items())


INTERRUPTED = ("-m", "stage=distill", *MINI, "kd.T=1,4", "kd.alpha=0,0.5")


@pytest.fixture
def interrupt(cli, teacher):
    """Ends a sweep by Ctrl-C after 3 epochs."""

    def run(*words: str) -> None:
        with interrupting(3):
            said = cli(*words)
        assert said.code == 130
        assert "interrupted after 3 epochs; the same command continues there" in said.out

    return run


@pytest.fixture
def interrupted(interrupt):
    """A sweep that was ended by Ctrl-C after 3 epochs."""
    interrupt(*INTERRUPTED)
    assert not runs("main")


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adam", "adamw", "sgd"])
def test_views_regressors_and_schedules_go_on_too(cli, interrupt, teacher, optim):
    words = ("-m", "stage=distill", *MINI, f"teacher.checkpoint={teacher}", "kd=hint", "seed=0,1")
    words += ("model.hidden=16", "kd.warmup_epochs=5", "kd.stop_epoch=7", "data.augment.mixup=1")
    if optim != "adam":
        words += (f"optim={optim}", "optim.schedule=onecycle", "optim.lr=1e-4")
    interrupt(*words, "study=stopped")
    assert "continuing" in cli(*words, "study=stopped").out
    assert cli(*words, "study=undisturbed").code == 0
    stopped, undisturbed = runs("stopped"), runs("undisturbed")
    assert stopped.keys() == undisturbed.keys()
    assert len(stopped) == 2
    for name, run in stopped.items():
        assert distance(run, undisturbed[name]) == 0


def test_places_and_limits_do_not_make_another_group(cli, interrupted):
    said = cli(*INTERRUPTED, "trainer.group_mb=100")
    assert said.code == 0
    assert "an earlier attempt ended after epoch 3: continuing" in said.out
    assert len(runs("main")) == 4


def test_a_group_of_other_settings_begins_anew(cli, interrupted):
    Path("outputs/main/unfinished/damaged.ckpt").write_bytes(b"PK but not a checkpoint")
    said = cli(*INTERRUPTED, "optim.lr=0.005")
    assert said.code == 0
    assert "continuing" not in said.out
    assert len(runs("main")) == 4


def test_what_cannot_train_together_says_why(cli):
    said = cli("-m", "stage=teacher", *MINI[:1], "trainer.max_epochs=1", "seed=0,1")
    assert said.code == 0
    assert "2 of 2 runs train alone: model=cnn" in said.out
    for run in runs("main", "teacher").values():
        assert "trains alone: model=cnn" in (run / "train.log").read_text()


def test_a_group_that_fails_is_trained_one_by_one(study, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(fused.GroupModule, "training_step", broken)
    assert len(study("main", "stage=distill", "kd.T=2,3")) == 2
    assert "2 runs train alone: the group of 2 failed: RuntimeError: a bug of ours" in study.out
    assert "Traceback" in study.err


def test_a_group_that_runs_out_of_memory_says_how_to_go_on(cli, teacher, monkeypatch):
    def full(*_):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        )

    monkeypatch.setattr(fused.GroupModule, "training_step", full)
    said = cli("-m", "stage=distill", *MINI, f"teacher.checkpoint={teacher}", "kd.T=2,3")
    assert said.code == 1
    assert said.err.startswith("error: out of memory in a group of 2 students; ")
    assert "trainer.group_mb" in said.err
    assert "Traceback" not in said.out + said.err


@pytest.mark.slow
def test_the_compiled_step_is_the_same(study, monkeypatch):
    sweep = ("stage=distill", "kd.T=1,4", "kd.alpha=0,0.5", "seed=0,1")
    traced = study("traced", *sweep)
    monkeypatch.setattr(fused, "COMPILE_FROM", 0)
    compiled = study("compiled", *sweep)
    assert_equal_up_to_rounding(compiled, traced)


@pytest.mark.slow
def test_a_compiler_is_not_needed(study, monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("no working compiler\nand why")

    monkeypatch.setattr(fused, "COMPILE_FROM", 0)
    monkeypatch.setattr(torch._inductor, "compile", no_compiler)
    monkeypatch.setenv("CXX", "c++")
    found = study("main", "stage=distill", "kd.T=2,3")
    assert len(found) == 2
    assert "not compiled: no working compiler" in study.out
