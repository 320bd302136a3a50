"""Every setting of the schema, swept in a group and one run after another: the same results."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
from helpers import DIGITS
from torture.settings import GROUPS, Case, cases, together_as_alone
from torture.trials import M

import train
from kd.methods.base import Distillation

# What all methods have is swept by one of them here, and by each in unit/sweeps/test_one_step.py.
SHARED = {f"kd.{field.name}" for field in dataclasses.fields(Distillation)} - GROUPS.keys()
CASES = [case for case in cases() if case.key not in SHARED or "kd=hinton" in case.words]


@pytest.fixture(scope="session")
def taught(tmp_path_factory) -> Path:
    """A folder with the digits and two teachers, made once."""
    folder = tmp_path_factory.mktemp("taught")
    shutil.copytree(DIGITS, folder / "digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", "-m", "stage=teacher", "seed=0,1", *M])
        train.main()
    return folder


def test_no_setting_is_forgotten():
    assert len(CASES) > len(Distillation.__dataclass_fields__)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join((case.key, *case.words)))
def test_a_setting_swept_together_is_as_swept_alone(cli, tmp_path, monkeypatch, taught, case: Case):
    def run(place: Path, *words: str) -> str:
        monkeypatch.chdir(place)
        said = cli(*words)
        assert said.code == 0, said.err
        return said.out

    together_as_alone(case, tmp_path, taught, run)
