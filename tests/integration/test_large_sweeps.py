"""What the terminal shows of a sweep that is too large for a line per run."""

import io
import re
from dataclasses import replace

import pytest
from helpers import as_job, config
from rich.console import Console

from kd.sweeps import board
from kd.sweeps.board import Board

WORDS = ("-m", "data=mnist_mini", "trainer.max_epochs=1")


@pytest.mark.slow
def test_runs_are_counted_and_the_best_settings_listed(cli, teacher):
    rates = ",".join(f"{0.001 * k:.3f}" for k in range(1, 43))
    said = cli(*WORDS, "stage=student", f"optim.lr={rates}")
    assert said.code == 0, said.err
    assert "42 students train together" in said.out
    assert re.findall(r"^\[.*", said.out, flags=re.M) == [
        "[40/42] 40 complete, 2 trained",
        "[42/42] 42 complete",
    ]
    (head,) = re.findall("the best of .*", said.out)
    assert head == "the best of 42 settings by validation accuracy"
    assert said.out.count("optim.lr=") == 10
    assert "42 of 42 runs complete" in said.out


@pytest.fixture
def shown(monkeypatch) -> tuple[Board, io.StringIO]:
    """The board of 50 jobs in a terminal, and what is drawn there."""
    monkeypatch.setattr(board, "PAUSE", 0)
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    one = config("stage=student")
    jobs = [as_job(replace(one, seed=seed), f"run {seed}") for seed in range(50)]
    return Board(jobs, console), file


def test_a_terminal_shows_the_best_so_far_and_counts(shown):
    seen, file = shown
    with seen:
        for number, job in enumerate(seen.jobs[:20]):
            ended = number < 3
            seen.note(job, epochs=5, accuracy=0.5 + number / 100, ended=ended)
        seen.draw()
    drawn = file.getvalue()
    assert "30 waiting" in drawn
    assert "17 running" in drawn
    assert "3 stopped early" in drawn
    assert re.search(r"\d left", drawn)
    listed = re.findall(r"run (\d+) +│ (\S+)", drawn)[-10:]  # it is drawn more than once
    assert [int(number) for number, _ in listed] == list(range(19, 9, -1))
    assert listed[0][1] == "0.6900"


def test_failures_are_told_one_by_one(shown):
    seen, file = shown
    with seen:
        seen.jobs[3].failure = RuntimeError("why")
        seen.settle(seen.jobs[3], 4, "[4/50] run 3  FAILED: why")
    assert "[4/50] run 3  FAILED: why" in file.getvalue()
    assert "1 failed" in file.getvalue()
