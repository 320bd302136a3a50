"""``callbacks=…``: Lightning's callbacks in single runs."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import MINI, complete, interrupting, metrics, weights

STUDENT = ("stage=student", "data=mnist_mini", "trainer.max_epochs=4")
AVERAGE = ("callbacks=weight_averaging", "callbacks.weight_averaging.decay=0.9")
STOPPING = (
    "+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping",
    "+callbacks.stop.monitor=val/acc",
    "+callbacks.stop.mode=max",
    "+callbacks.stop.stopping_threshold=0.7",
)


def run_of(cli, *words) -> Path:
    said = cli(*STUDENT, *words)
    assert said.code == 0, said.err
    return next(run for run in complete() if str(run) in said.out or run.name in said.out)


def test_averaged_weights_are_validated_kept_and_tested(cli):
    plain, averaged = run_of(cli), run_of(cli, *AVERAGE)
    mine, its = weights(averaged), weights(plain)
    assert not any(torch.equal(mine[key], its[key]) for key in mine)
    assert "weight_averaging" in metrics(averaged)["callbacks"]
    assert metrics(plain)["callbacks"] is None
    one, other = (pd.read_csv(run / "history.csv") for run in (averaged, plain))
    assert one["train/loss"].tolist() == other["train/loss"].tolist(), "the same training"
    assert (one["val/loss"] > 0).all()
    assert (one["val/loss"] != other["val/loss"]).all(), "validated with the average"


def test_a_callback_may_end_a_training(cli):
    found = metrics(run_of(cli, *STOPPING))
    assert 1 <= found["epochs"] < 4
    assert found["val/acc"] >= 0.7


def test_a_training_without_an_epoch_is_no_run(cli):
    said = cli(*STUDENT, "callbacks=timer", "callbacks.timer.duration=00:00:00:00")
    assert said.code == 1
    assert said.err == "error: callbacks=[timer]: ended the training at once\n"


@pytest.mark.parametrize("words", [AVERAGE, ("callbacks=timer",)], ids=["average", "timer"])
def test_a_run_with_callbacks_resumes(cli, words):
    with interrupting(2):
        assert cli(*STUDENT, *words, "study=cut").code == 130
    said = cli(*STUDENT, *words, "study=cut")
    assert "an earlier attempt ended after epoch 2" in said.out, said.err
    whole = run_of(cli, *words)
    (cut,) = complete("cut")
    for file in ("model.ckpt", "history.csv", "predictions.npz"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file


def test_callbacks_make_another_run(cli):
    run_of(cli)
    (run,) = complete()
    other = run_of(cli, *AVERAGE)
    other.rename(run.with_name("kept"))
    run.rename(other)
    said = cli(*STUDENT, *AVERAGE)
    assert said.code == 1
    assert "holds a complete run of other settings: callbacks ({} there" in said.err


def test_jobs_with_callbacks_train_apart_from_the_others(cli):
    said = cli("-m", "stage=student", *MINI, "callbacks=[],[timer]", "seed=0,1")
    assert said.code == 0, said.err
    assert "2 students train together" in said.out
    assert "2 of 4 runs train alone: callbacks=[timer] act on the training of one" in said.out
    assert {metrics(run)["callbacks"] is None for run in complete()} == {True, False}
