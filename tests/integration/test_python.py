"""kd from Python, and installed: as a user in another folder has it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MINI

import kd
from kd.files import PROJECT


def test_a_run_gives_its_metrics(cli, teacher):
    found = kd.run("stage=student", "seed=1", *MINI)
    assert found["stage"] == "student"
    assert 0.5 < found["test/acc"] < 1
    assert kd.run("stage=student", "seed=1", *MINI) == found, "complete already"
    assert cli("stage=student", "seed=1", *MINI).out.startswith("skipped")


def test_a_sweep_gives_one_row_per_job(cli, teacher):
    frame = kd.sweep("stage=distill", "kd.T=1,2", "seed=0,1", *MINI)
    assert len(frame) == 4
    assert frame["kd/T"].tolist() == [1, 1, 2, 2]
    assert frame["run"].is_unique
    again = kd.sweep("stage=distill", "kd.T=1", "seed=0,1", *MINI)
    assert again["test/acc"].tolist() == frame["test/acc"].tolist()[:2]
    study = kd.load_study("outputs/main")
    assert len(study.runs) == 5


@pytest.mark.parametrize(
    "words", [("stage=nothing",), ("kd.T=0",), ("nonsense",), ("seed=1,2",), ("stage=report",)]
)
def test_mistakes_are_one_line(cli, words):
    with pytest.raises(kd.UserError) as caught:
        kd.run(*words)
    assert "\n" not in str(caught.value)
    assert not Path("outputs").exists()


def test_a_sweep_of_wrong_jobs_runs_none(cli):
    with pytest.raises(kd.UserError, match=r"kd\.T=-1"):
        kd.sweep("stage=distill", "kd.T=1,-1", *MINI)
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_the_lines_of_the_readme_run_from_a_wheel_in_another_folder(tmp_path):
    source, target, elsewhere = (tmp_path / name for name in ("source", "target", "elsewhere"))
    left = shutil.ignore_patterns(".*", "outputs", "data", "build", "*.egg-info", "__pycache__")
    shutil.copytree(PROJECT, source, ignore=left, ignore_dangling_symlinks=True)
    shutil.copytree(PROJECT / "conf" / "data", source / "conf" / "data", dirs_exist_ok=True)
    shutil.copytree(PROJECT / "kd" / "data", source / "kd" / "data", dirs_exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True)
    elsewhere.mkdir()
    text = (PROJECT / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.S)
    environment = os.environ | {"PYTHONPATH": str(target)}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = lines.replace('")', '", "data=mnist_mini", "trainer.max_epochs=2")')
    small = small.replace('outputs/main", "data=mnist_mini", "trainer.max_epochs=2', "outputs/main")
    said = run(sys.executable, "-c", f"{small}\nprint(kd.__file__)")
    assert said.strip().endswith(str(target / "kd" / "__init__.py"))
    assert (elsewhere / "outputs/main/results.csv").exists()
    assert "kd.alpha" in run(sys.executable, str(target / "bin" / "kd"), "--help")
    listed = run(sys.executable, "-m", "kd", "--cfg", "job", "--resolve")
    assert "\n  dir: data\n" in listed, "data lie in the working directory"
