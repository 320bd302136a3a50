"""Speed, where a user feels it: the answer to --help and to a typo, and an epoch of training."""

import re
import statistics
import subprocess
import sys
import time

import pytest

from kd.config.schema import PROJECT


def seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=PROJECT, capture_output=True)
    return time.perf_counter() - started


@pytest.mark.parametrize("word", ["--help", "kd.TT=3", "kd.T=0"])
def test_help_and_errors_answer_at_once(word):
    """At most 1.5 s where importing Hydra takes 0.45 s, measured in turn with it."""
    pairs = [(seconds("train.py", word), seconds("-c", "import hydra")) for _ in range(3)]
    ours, imports = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert ours / imports < 1.5 / 0.45 or ours < 1.5


@pytest.mark.slow
def test_an_epoch_costs_a_fraction_of_a_tutorials():
    """The benchmark itself; the bounds leave room for a machine that is busy with other things."""
    done = subprocess.run(
        [sys.executable, "benchmarks/epoch.py", "-n", "1"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ratios = dict(re.findall(r"\| (student|teacher) \|.*\| ([\d.]+) \(", done.stdout))
    assert float(ratios["student"]) > 4
    assert float(ratios["teacher"]) > 2
