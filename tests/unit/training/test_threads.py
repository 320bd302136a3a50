"""The number of threads follows the load where the results allow it, and changes no result."""

import time
from pathlib import Path

import pytest
import torch
from helpers import weights
from torch import nn

from kd.data import module as data
from kd.sweeps import batches
from kd.sweeps import module as fused
from kd.training import modules, threads
from kd.training.rounding import rounding_as
from kd.training.threads import TRIES, Threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def seen(chooser: Threads, pieces: int, slow: int) -> list[int]:
    """The threads of each piece of work; with ``slow`` of them it takes longer."""
    found = []
    for _ in range(pieces):
        with chooser.piece(1):
            found.append(torch.get_num_threads())
            time.sleep(0.01 if found[-1] == slow else 0.001)
    return found


@pytest.mark.parametrize(("slow", "fast"), [(2, 1), (1, 2)])
def test_the_faster_number_is_taken_until_the_next_trial(two_threads, slow, fast):
    chooser = Threads()
    chooser.free = True
    trial = [2, 1] * TRIES
    assert seen(chooser, 2 * TRIES + 3, slow) == [*trial, fast, fast, fast]
    chooser.next_trial = 0.0
    assert seen(chooser, 2 * TRIES, slow) == trial
    assert torch.get_num_threads() == 2


def test_where_results_depend_on_the_number_it_stays(two_threads):
    chooser = Threads()
    chooser.free = False
    assert set(seen(chooser, 2 * TRIES + 1, slow=2)) == {2}


class Turns(Threads):
    """Tries for ever: every other piece has one thread, and the validation too."""

    made: "list[Turns]"

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)

    def _choose(self) -> None:
        self.chosen = 1
        self.trial.clear()


@pytest.fixture
def turns(monkeypatch) -> type[Turns]:
    """Turns that are made in place of Threads; a chunk is of two batches."""
    Turns.made = []
    for module in (fused, modules):
        monkeypatch.setattr(module, "Threads", Turns)
    for module in (batches, modules, data):
        monkeypatch.setattr(module, "CHUNK", 2)
    return Turns


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("data.batch_size=96",), ("data.views=shift1", "optim.label_smoothing=0.1")]
)
def test_a_teacher_has_the_same_bits_whatever_is_chosen(
    cli, two_threads, monkeypatch, turns, words
):
    words = ("stage=teacher", "data=mnist_mini", "trainer.max_epochs=3", *words)
    assert cli(*words, "study=turns").code == 0
    (chooser,) = turns.made
    if not chooser.free:
        pytest.skip("one thread cannot round as two do with these libraries")
    assert chooser.chosen == 1
    monkeypatch.setattr(modules, "Threads", Threads)
    monkeypatch.setattr(Threads, "piece", lambda self, size: threads.using(2))
    assert cli(*words, "study=two").code == 0
    runs = [path.parent for path in Path("outputs").glob("*/teacher/*/model.ckpt")]
    mine, its = map(weights, runs)
    assert all(mine[name].equal(its[name]) for name in its)
    assert len({(run / "history.csv").read_bytes() for run in runs}) == 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, padding="same"),
        nn.Conv2d(3, 5, (5, 3), stride=2, padding=(2, 1), bias=False),
        nn.Conv2d(3, 6, 3, padding="valid", dilation=2, groups=3),
        nn.Conv2d(3, 5, 2, padding="same"),
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 81, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 81, 40, bias=False)),
    ],
)
@pytest.mark.parametrize("images", [1, 7])
def test_rounding_as_several_threads_changes_no_more_than_rounding(layer, images):
    layer = layer.double()  # whose rounding is far below what a wrong sum would be off by
    taken = torch.rand(images, 3, 9, 9, dtype=torch.float64, requires_grad=True)

    def found(count: int) -> list[torch.Tensor]:
        with threads.using(1), rounding_as(count, layer):
            given = layer(taken)
        return [given, *torch.autograd.grad(given.square().sum(), [taken, *layer.parameters()])]

    for plain, as_three in zip(found(1), found(3), strict=True):
        torch.testing.assert_close(plain, as_three)
    assert all("forward" not in vars(part) for part in layer.modules())


@pytest.mark.slow
def test_a_group_has_the_same_bits_whatever_is_chosen(
    cli, teacher, two_threads, monkeypatch, turns
):
    words = ("-m", "stage=distill", "data=mnist_mini", "trainer.max_epochs=3", "kd.T=1,3")
    words += ("kd.alpha=0,0.5",)
    taught = f'teacher.checkpoint="{teacher}"'
    assert cli(*words, "study=turns", taught).code == 0
    assert turns.made[0].free
    monkeypatch.setattr(Threads, "piece", lambda self, size: threads.using(2))
    monkeypatch.setattr(fused, "Threads", Threads)
    assert cli(*words, "study=two", taught).code == 0
    runs = sorted(path.parent for path in teacher.parents[2].glob("turns/distill/*/model.ckpt"))
    assert len(runs) == 4
    for run in runs:
        same = teacher.parents[2] / "two" / "distill" / run.name
        mine, its = weights(run), weights(same)
        assert all(mine[name].equal(its[name]) for name in its)
        assert (run / "history.csv").read_bytes() == (same / "history.csv").read_bytes()


def test_views_keep_their_number_of_threads(cli, two_threads, monkeypatch):
    """Whether they have the same bits with another is not looked at."""
    made = []

    class Seen(Threads):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(fused, "Threads", Seen)
    words = ("-m", "stage=student", "data=mnist_mini", "trainer.max_epochs=1", "seed=0,1")
    assert cli(*words, "data.augment.shift=1").code == 0
    assert made[0].free is False
