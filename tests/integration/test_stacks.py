"""Networks of any architecture in a stack: each as it would be alone; and when they are stacked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import complete, config, distance, metrics, runs

from kd.models.base import MNIST
from kd.sweeps import choice
from kd.sweeps import module as fused
from kd.sweeps.choice import Times
from kd.training import memory
from kd.training.callbacks import Record

MINI = ("data=mnist_mini", "data.batch_size=32", "trainer.max_epochs=2")
GRID = ("kd.T=1,3", "seed=0,1")
STACKED = "trainer.stack=always", "trainer.group_mb=500"


@pytest.fixture
def study(cli, teacher):
    """A sweep of distillations in a study of its own, with one teacher; the runs by their names."""

    def run(name: str, *words: str) -> dict[str, Path]:
        given = f"teacher.checkpoint={teacher}"
        said = cli("-m", "stage=distill", *MINI, f"study={name}", given, *words)
        assert said.code == 0, said.err
        run.out = said.out
        return {found.name: found for found in complete(name, "distill")}

    return run


@pytest.fixture
def interrupt(monkeypatch):
    """Has Ctrl-C end a command after so many epochs, counted over all its groups."""

    def after(epochs: int) -> None:
        before, passed = Record.on_train_epoch_end, []

        def press(self, trainer, pl_module):
            before(self, trainer, pl_module)
            passed.append(pl_module)
            if len(passed) == epochs:
                monkeypatch.setattr(Record, "on_train_epoch_end", before)
                raise KeyboardInterrupt

        monkeypatch.setattr(Record, "on_train_epoch_end", press)

    return after


@pytest.fixture
def measured(monkeypatch):
    """Makes up the times of together and alone; a list grows with each measurement."""

    def made_up(together: float, alone: float) -> list[int]:
        asked: list[int] = []

        def measure(config, task, device, students):
            asked.append(students)
            return Times(together, alone)

        monkeypatch.setattr(choice, "measure", measure)
        return asked

    return made_up


def logits(run: Path) -> np.ndarray:
    """What a run's network makes of the test images."""
    return np.load(run / "predictions.npz")["logits"]


def apart_by(one: np.ndarray, other: np.ndarray) -> float:
    """The relative difference of two arrays."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def assert_same_bits(these: dict[str, Path], others: dict[str, Path]) -> None:
    assert these.keys() == others.keys()
    for name, run in these.items():
        assert distance(run, others[name]) == 0, name
        assert metrics(run)["predictions/sha256"] == metrics(others[name])["predictions/sha256"]


NETWORKS = {
    "cnn": ("model=cnn",),
    "at": ("model=cnn", "kd=at", "data.augment.shift=1"),
    # By Adam's first steps biases whose gradients are rounding go either way as far as others.
    "resnet8": ("model=resnet8", "model.width=4", "kd=hint", "kd.term_weight=1", "optim=sgd"),
    "mlp": ("model.hidden=[16,8]", "model.dropout=0.2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_students_in_a_stack_are_those_alone(study, network):
    words = (*NETWORKS[network], *GRID, "optim.lr=1e-3", *STACKED)
    together = study("together", *words)
    assert "4 students train together" in study.out
    alone = study("alone", *words, "hydra/launcher=basic")
    assert together.keys() == alone.keys()
    apart = sorted(apart_by(logits(run), logits(alone[name])) for name, run in together.items())
    assert apart[2] < 1e-4, "all but one: where a ReLU's input is 0 up to rounding they part"
    assert apart[3] < 2e-2
    for name, run in together.items():
        assert metrics(run)["val/loss"] == pytest.approx(metrics(alone[name])["val/loss"], rel=1e-2)


@pytest.mark.slow
def test_students_of_a_stack_differ_in_rates_dropout_and_length(study):
    own = "optim.lr=1e-3,2e-3", "model.dropout=0,0.3", "trainer.max_epochs=1,2"
    words = ("model=cnn", "model.channels=[4,8]", *own, *STACKED)
    together = study("together", *words)
    assert "8 students train together" in study.out
    alone = study("alone", *words, "hydra/launcher=basic")
    apart = sorted(apart_by(logits(run), logits(alone[name])) for name, run in together.items())
    assert apart[6] < 1e-4
    assert apart[7] < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet8", "mlp"])
def test_a_stack_goes_on_with_the_same_bits(cli, study, teacher, interrupt, network):
    """Its buffers and its dropout's generators are part of its state; one student ends early."""
    words = (*NETWORKS[network], *STACKED, "trainer.max_epochs=1,3", "seed=0,1", "kd.T=2")
    undisturbed = study("undisturbed", *words)
    interrupt(2)
    sweep = ("-m", "stage=distill", *MINI[:2], *words, f"teacher.checkpoint={teacher}")
    assert cli(*sweep, "study=stopped").code == 130
    stopped = study("stopped", *words)
    assert "an earlier attempt ended after epoch 2: continuing" in study.out
    assert_same_bits(stopped, undisturbed)


@pytest.mark.slow
def test_a_smaller_stack_goes_on(study, monkeypatch):
    """Students that have ended leave the stack, and change nothing."""
    words = (*NETWORKS["resnet8"], *STACKED, "optim.lr=1e-3", "seed=0,1", "kd.T=2")
    words += ("trainer.max_epochs=1,3",)
    whole = study("whole", *words)
    monkeypatch.setattr(fused.NetworkStack, "remake", 0)
    smaller = study("smaller", *words)
    for name, run in whole.items():
        assert apart_by(logits(run), logits(smaller[name])) < 1e-4


@pytest.mark.slow
def test_what_is_faster_is_measured_once_and_recorded(study, measured):
    asked = measured(together=1.0, alone=2.0)
    words = ("model=cnn", "seed=0,1", "kd.T=2")
    study("main", *words)
    assert asked == [2]
    assert "model=cnn trains together: 1 ms per student and step together, 2 alone" in study.out
    assert "2 students train together" in study.out
    asked = measured(together=2.0, alone=1.0)
    study("main", *words, "optim.lr=0.002", "model.dropout=0.2")
    assert not asked, "the study knows"
    assert "2 students train together" in study.out
    study("main", *words, "data.batch_size=16", "trainer.max_epochs=1")
    assert asked == [2], "another batch is another case"
    assert "2 of 2 runs train alone: model=cnn is slower together: 2 ms" in study.out
    content = json.loads(Path("outputs/main/stacks.json").read_text())
    assert sorted(entry["what"]["batch"] for entry in content.values()) == [16, 32]
    Path("outputs/main/stacks.json").write_text('{"x": {"together": "fast"')
    study("main", *words, "optim.lr=0.003")
    assert "stacks.json: cannot be read" in study.out
    assert asked == [2, 2]


def test_an_mlp_of_one_layer_is_not_measured(study, measured):
    asked = measured(together=9.0, alone=1.0)
    study("main", *GRID)
    assert "4 students train together" in study.out
    assert not asked


def test_never_stacks_nothing(study, measured):
    asked = measured(together=1.0, alone=9.0)
    for words in (("model=cnn",), ()):
        study("main", *words, "seed=0,1", "kd.T=2", "trainer.stack=never")
        assert "2 of 2 runs train alone: trainer.stack=never" in study.out
    assert not asked


def test_networks_that_draw_global_numbers_say_so_once(study, tmp_path, monkeypatch):
    (tmp_path / "dropping_net.py").write_text(
        "from torch import nn\n\n\ndef net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(784, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    study("main", "model=custom", "model.target=dropping_net.net", "seed=0,1", "kd.T=2", *STACKED)
    reason = "2 of 2 runs train alone: model=custom cannot be stacked: draws from global random"
    assert study.out.count(reason) == 1


def test_it_is_timed_here():
    found = choice.measure(
        config("stage=student", "model=cnn", "data=mnist_mini"), MNIST, torch.device("cpu"), 2
    )
    assert found.together > 0
    assert found.alone > 0


@pytest.fixture
def small(monkeypatch):
    """A GPU's memory that holds two students."""
    step = fused.GroupModule.training_step

    def full(self, *given):
        if len(self.counted) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(self, *given)

    monkeypatch.setattr(fused.GroupModule, "training_step", full)


def test_a_group_too_large_for_a_gpu_trains_in_halves(study, small):
    found = study("main", *GRID)
    assert "out of memory: 4 runs train in groups of 2 and 2" in study.out
    assert study.out.count("2 students train together") == 2
    assert len(found) == 4
    assert not Path("outputs/main/unfinished").exists()


def test_halves_are_not_cut_again(cli, teacher, small):
    words = ("-m", "stage=distill", *MINI, "kd.T=1,2,3,4,5", f"teacher.checkpoint={teacher}")
    said = cli(*words)
    assert said.code == 1
    assert "in groups of 2 and 3" in said.out
    assert "out of memory in a group of 3 students; " in said.err
    assert "2 of 5 runs complete" in said.out


@pytest.mark.slow
def test_halves_go_on_after_an_interruption(cli, study, teacher, small, interrupt):
    undisturbed = study("undisturbed", *GRID)
    interrupt(3)  # the first half has two epochs
    words = ("-m", "stage=distill", *MINI, *GRID, f"teacher.checkpoint={teacher}", "study=stopped")
    assert cli(*words).code == 130
    stopped = study("stopped", *GRID)
    assert "out of memory" not in study.out
    assert "an earlier attempt ended after epoch 1: continuing" in study.out
    assert_same_bits(stopped, undisturbed)


def test_a_gpus_free_memory_is_the_size_of_its_groups(monkeypatch):
    cuda, asked = torch.device("cuda", 0), []

    def free(device):
        asked.append(device)
        return 10 * 2**30, 80 * 2**30

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    given = config("stage=student", "data=mnist_mini", "trainer.group_mb=1")
    assert memory.room_for_group(given, torch.device("cpu")) == 2**20
    assert memory.room_for_group(given, cuda) == int(0.7 * 10 * 2**30)
    memory.refuse_too_large([given] * 100, MNIST, cuda)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**20, 80 * 2**30))
    with pytest.raises(memory.OutOfMemory, match="1 MB are free"):
        memory.refuse_too_large([given] * 100, MNIST, cuda)
    assert asked


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_networks_in_a_stack(cli):
    words = ("-m", "stage=student", *MINI, "model=cnn", "optim.lr=1e-3,2e-3", "seed=0,1")
    for stack in ("always", "never"):
        said = cli(*words, "trainer=gpu", f"trainer.stack={stack}", f"study={stack}")
        assert said.code == 0, said.err
        assert ("4 students train together on cuda" in said.out) == (stack == "always")
    together, alone = (runs(study, "student") for study in ("always", "never"))
    assert len(together) == 4
    for name, run in together.items():
        assert metrics(run)["val/loss"] == pytest.approx(metrics(alone[name])["val/loss"], rel=0.05)
