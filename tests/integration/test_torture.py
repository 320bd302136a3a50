"""The promises of docs/trust.md under attack, a few trials a kind; ``make torture`` has more."""

import subprocess
import sys

import pytest
from torture import settings

from kd.files import PROJECT


def test_every_setting_is_swept_or_says_why_not():
    assert settings.cases()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torture():
    words = [sys.executable, "-m", "tests.torture", "--seed", "0"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failures, seed 0" in done.stdout.splitlines()[-1]
