"""The number of threads follows the load where the results allow it, and changes no result."""

import time

import pytest
import torch
from helpers import weights

from kd.sweeps import module as fused
from kd.training import threads
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


@pytest.mark.slow
def test_a_group_has_the_same_bits_whatever_is_chosen(cli, teacher, two_threads, monkeypatch):
    words = ("-m", "stage=distill", "data=mnist_mini", "trainer.max_epochs=3", "kd.T=1,3")
    words += ("kd.alpha=0,0.5",)
    made = []

    class Turns(Threads):
        """Tries for ever: every other piece has one thread, and the validation too."""

        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def _choose(self) -> None:
            self.chosen = 1
            self.trial.clear()

    monkeypatch.setattr(fused, "Threads", Turns)
    monkeypatch.setattr("kd.sweeps.batches.CHUNK", 2)
    taught = f'teacher.checkpoint="{teacher}"'
    assert cli(*words, "study=turns", taught).code == 0
    assert made[0].free
    monkeypatch.setattr(threads.Threads, "piece", lambda self, size: threads.using(2))
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
