"""Single runs take many batches at a time from Lightning: the same bits as batch by batch."""

import pytest
import torch
from helpers import MINI, complete, interrupting, metrics, weights
from torch import nn

from kd.training import fit, tracing

UNLABELLED = ("data.unlabelled=true", "data.train_size=150")
VIEWS = ("data.augment.shift=2", "data.augment.mixup=0.3", "data.augment.extra=1")
WARM = ("kd.warmup_epochs=1", "kd.stop_epoch=2", "optim.label_smoothing=0.1")
RUNS = [
    ("stage=teacher",),
    ("stage=teacher", "model=resnet8", "trainer.limit_batches=3"),
    ("stage=student", "optim.schedule=onecycle", "data.batch_size=100"),
    ("stage=student", "optim=sgd", "optim.schedule=constant", "trainer.limit_batches=26"),
    ("stage=student", "data.batch_size=8", "checkpoint=best", "keep_epochs=true"),
    ("stage=distill", *WARM, *UNLABELLED),
    ("stage=distill", "optim=adamw", *VIEWS, *WARM),
    ("stage=distill", "kd=at", "model=cnn", "trainer.limit_batches=3"),
    ("stage=distill", "kd=hint", "model.hidden=16"),
]


def run_of(cli, *words):
    """The folder of the one run of a study; whoever asks gives the study a name."""
    said = cli(*words)
    assert said.code == 0, said.err
    study = next(word.removeprefix("study=") for word in words if word.startswith("study="))
    stage = next(word.removeprefix("stage=") for word in words if word.startswith("stage="))
    (run,) = complete(study, stage)
    return run


def same(one, other):
    mine, its = weights(one), weights(other)
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_chunks_give_what_single_batches_give(cli, teacher, monkeypatch, words):
    words = (*words, *MINI)
    if words[0] == "stage=distill":
        words += (f"teacher.checkpoint={teacher}",)
    chunked = run_of(cli, *words, "study=chunked")
    monkeypatch.setattr(fit, "in_chunks", lambda config: False)
    same(chunked, run_of(cli, *words, "study=single"))


@pytest.mark.slow
@pytest.mark.parametrize("words", [RUNS[0], (*RUNS[2], *VIEWS)], ids=" ".join)
def test_a_chunked_run_that_was_killed_ends_with_the_same_bits(cli, words):
    with interrupting():
        assert cli(*words, *MINI, "study=cut").code == 130
    same(run_of(cli, *words, *MINI, "study=cut"), run_of(cli, *words, *MINI, "study=whole"))


def test_mixed_precision_and_callbacks_are_given_every_batch(cli):
    for study, word in (("half", "trainer.precision=bf16"), ("called", "callbacks=timer")):
        run = run_of(cli, "stage=student", *MINI, word, f"study={study}")
        assert metrics(run)["val/acc"] > 0.5


def test_a_parameter_without_a_gradient_stays_as_it_is():
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([used, unused], fused=True)
    for _ in range(3):
        tracing.optimizer_step(optimizer, [torch.ones(3), None])
    assert used.max() < 1
    assert torch.equal(unused, torch.ones(2))
