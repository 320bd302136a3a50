"""The benchmarks still find what they import; what they measure is nothing for a test."""

import os
import subprocess
import sys

import pytest

from kd.files import PROJECT


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in PROJECT.glob("benchmarks/*.py")))
def test_a_benchmark_says_what_it_measures(name):
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}", "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
