"""What a user sees first: ``--help``, and the answer to a mistyped word."""

import subprocess
import sys

import pytest
from helpers import CONF

from kd.files import PROJECT

HEAVY = ("torch", "pytorch_lightning", "torchvision", "numpy", "pandas", "scipy", "matplotlib")
CODE = f"""
import sys, train
sys.argv = ["train.py", *sys.argv[1:]]
try:
    train.main()
except SystemExit as stop:
    print("ended:", stop.code)
print("heavy:", sorted(set({HEAVY}) & set(sys.modules)))
"""


@pytest.mark.parametrize("words", ["--help", "kd.TT=3", "kd.T=0", "stage=foo", "-m kd.T=1,0"])
def test_help_and_mistakes_import_nothing_heavy(words):
    """How long they take is measured by benchmarks/startup.py."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words.split()], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr
    assert ("ended: error" in done.stdout) == (words != "--help")


PRESSED = """
import sys
class Press:
    def find_spec(self, name, *_):
        if name == "omegaconf":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Press())
import train
"""


def test_ctrl_c_during_the_first_imports_shows_no_traceback():
    done = subprocess.run(
        [sys.executable, "-c", PRESSED], cwd=PROJECT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_help_teaches(cli):
    said = cli("--help")
    assert said.code == 0
    for word in ("stage=teacher", "-m stage=distill", "tensorboard --logdir outputs", "overwrite"):
        assert word in said.out
    for path in CONF.glob("*/*.yaml"):
        assert path.stem in said.out
