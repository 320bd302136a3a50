"""Commands whose runs are all complete: checked without torch, and refused as ever."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import DIGITS, MINI, complete, tree

from kd.data.remembered import FILE
from kd.files import PROJECT
from kd.training import unfinished

pytestmark = pytest.mark.slow  # each starts commands of their own

METHOD = '''
from dataclasses import dataclass

from kd.methods.base import Distillation, temperature


@dataclass
class Flat(Distillation):
    """Twice nothing."""

    T: float = temperature(3.0)

    def term(self, student, teacher, labels):
        return 0 * student.logits.sum()
'''
SHARED = (*MINI, "data.dir=digits")
SWEEP = ("-m", "stage=distill", *SHARED, "kd.method=own.flat", "seed=0,1")
LAST = """
print("heavy:", sorted({"torch", "pytorch_lightning", "sklearn"} & set(sys.modules)))
print("ended:", ended)
"""
COMMAND = f"""
import sys, train
sys.argv = ["train.py", *sys.argv[1:]]
ended = None
try:
    train.main()
except SystemExit as stop:
    ended = stop.code
{LAST}
"""
IN_PYTHON = f"""
import sys, kd
ended = len(kd.sweep(*sys.argv[2:]))
{LAST}
"""


class Said(NamedTuple):
    """What a command of a process of its own said, which modules it imported, how it ended."""

    out: str
    heavy: str
    ended: str


def fresh(*words: str, code: str = COMMAND) -> Said:
    """Give a command in the working directory."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=os.environ | {"PYTHONPATH": f"{PROJECT}:{Path.cwd()}"},
        capture_output=True,
        text=True,
    )
    assert not done.stderr, done.stderr
    out, _, last = done.stdout.partition("heavy: ")
    return Said(out, *last.strip().split("\nended: "))


@pytest.fixture(scope="module")
def _study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(DIGITS, "digits")
        Path("own").mkdir()
        Path("own", "flat.py").write_text(METHOD)
        assert fresh("stage=teacher", *SHARED).ended == "None"
        assert fresh(*SWEEP).ended == "None"
    return folder


@pytest.fixture
def study(_study, tmp_path, monkeypatch) -> Path:
    """A study whose runs are complete, in the working directory: its folder."""
    shutil.copytree(_study, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("outputs", "main")


def test_what_is_complete_needs_no_torch(study):
    (study / "results.csv").unlink()
    killed = study / unfinished.FOLDER / f"{unfinished.name_of(complete(stage='distill')[0])}.json"
    killed.parent.mkdir()
    killed.touch()
    before = {name: b for name, b in tree(study).items() if name.endswith(("json", "npz", "ckpt"))}
    said = fresh(*SWEEP)
    assert said.heavy == "[]"
    assert said.ended == "None"
    assert said.out.count("complete already, skipped") == 2
    assert "2 of 2 runs complete" in said.out
    assert "mean of 2 seeds" in said.out
    assert (study / "results.csv").read_text().count("\n") == 4
    assert not killed.parent.exists()
    after = tree(study)
    assert all(
        after.get(name) == b
        for name, b in before.items()
        if Path(name) != killed.relative_to(study)
    )

    alone = fresh(*SWEEP[1:-1])
    assert (alone.heavy, alone.ended) == ("[]", "None")
    assert "skipped: complete already, test accuracy" in alone.out
    in_python = fresh(*SWEEP, code=IN_PYTHON)
    assert (in_python.heavy, in_python.ended) == ("[]", "2")


def settings(study: Path) -> None:
    for run in complete(stage="distill"):
        path = run / ".hydra" / "config.yaml"
        path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 64"))


def teacher(study: Path) -> None:
    (path,) = study.glob("teacher/*/model.ckpt")
    path.write_bytes(path.read_bytes() + b"\0")


def images(study: Path) -> None:
    (path,) = Path("digits").glob("MNIST/raw/train-labels*")
    content = bytearray(path.read_bytes())
    content[8] = (content[8] + 1) % 10
    path.write_bytes(content)


def code(study: Path) -> None:
    Path("own", "flat.py").write_text(METHOD + "# edited\n")


def damaged(study: Path) -> None:
    for run in complete(stage="distill"):
        (run / "metrics.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "heavy", "expected"),
    [
        (settings, "[]", "other settings: data.batch_size (64 there, 32 here)"),
        (teacher, "[]", "other settings: the teacher (it was trained again since)"),
        (images, "['sklearn', 'torch']", "other settings: the images ("),
        (code, "[]", "other settings: your own code of the method"),
        (damaged, "[]", "metrics.json: cannot be read ("),
    ],
)
def test_what_has_changed_since_is_refused(study, change: Callable, heavy, expected):
    change(study)
    before = tree(study)
    said = fresh(*SWEEP)
    assert said.out.count("FAILED: ") == 2
    assert expected in said.ended
    assert said.ended.startswith("error: 2 of 2 runs failed: ")
    assert said.heavy == heavy
    runs = {name for name in before if name.startswith("distill")}
    assert all(tree(study)[name] == before[name] for name in runs)
    alone = fresh(*SWEEP[1:-1])
    assert expected in alone.ended


def test_a_run_that_is_missing_is_trained(study):
    first, second = complete(stage="distill")
    (first / "metrics.json").unlink()
    kept = tree(second)
    said = fresh(*SWEEP)
    assert "'torch'" in said.heavy
    assert said.out.count("complete already, skipped") == 1
    assert "2 of 2 runs complete" in said.out
    assert said.out.count("seed=0") == said.out.count("seed=1") == 1
    assert tree(second) == kept
    assert fresh(*SWEEP).heavy == "[]"
    assert fresh(*SWEEP, "overwrite=true").out.count("skipped") == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 1, "fingerprints": 2}', None])
def test_fingerprints_that_are_damaged_are_computed_anew(study, content):
    file = study / FILE
    good = file.read_text()
    first = '": "'
    at = good.index(first) + len(first)
    file.write_text(f"{good[:at]}0000{good[at + 4 :]}" if content is None else content)
    said = fresh(*SWEEP)
    assert said.out.count("complete already, skipped") == 2
    assert said.heavy == "['sklearn', 'torch']"
    assert file.read_text() == good


def test_other_code_computes_fingerprints_anew(study, monkeypatch):
    from kd.data import remembered

    assert remembered.read(study)
    monkeypatch.setattr(remembered, "code", lambda: ["other"])
    assert not remembered.read(study)


def test_a_library_s_images_have_no_name():
    from kd.config.schema import Data
    from kd.data.remembered import name_of

    for other in (Data(dataset="digits", source="sklearn"), Data(source="images", dir=str(DIGITS))):
        assert name_of(other, ((), "")) is None
