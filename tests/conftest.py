"""The command line as tests call it, and a trained teacher to copy."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import train

pytest.register_assert_rewrite("helpers", "golden_cases")

# Before torch is imported, here and in the commands that tests start: the networks are too small
# for two threads, which would only wait for each other beside the tests of the other core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from helpers import MINI  # noqa: E402


class Result(NamedTuple):
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


def pytest_configure(config: pytest.Config) -> None:
    """Hide a machine's GPU, unless ``-m gpu`` asks for it: on a CPU the bits repeat."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Callable[..., Result]:
    """``python train.py …`` in an empty folder, within this process: torch is imported once."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        capsys.readouterr()
        code = 0
        try:
            train.main()
        except SystemExit as stop:
            code = 1 if isinstance(stop.code, str) else int(stop.code or 0)
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def _trained(tmp_path_factory) -> Path:
    """The outputs of ``stage=teacher`` on the small digits, made once."""
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", "stage=teacher", *MINI])
        train.main()
    return folder / "outputs"


@pytest.fixture
def teacher(cli, _trained, tmp_path) -> Path:
    """A complete teacher in this test's own ``outputs``; its folder."""
    shutil.copytree(_trained, tmp_path / "outputs")
    (found,) = (tmp_path / "outputs" / "main" / "teacher").iterdir()
    return found


@pytest.fixture
def shared(tmp_path, monkeypatch) -> Path:
    """The folder below which this test's tasks share what they make."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # a socket's name is short
    return folder
