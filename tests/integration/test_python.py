"""kd from Python, and installed: as a user in another folder has it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from helpers import MINI
from nbclient import NotebookClient
from torch import nn

import kd
from kd.files import PROJECT
from kd.models._given import hand_over


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


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Colour images in three classes, and a folder to keep them in."""
    monkeypatch.setattr("kd.data.in_python.data_dir", lambda: tmp_path / "data")
    draw = np.random.default_rng(0)
    labels = np.arange(150) % 3
    shades = 80 * labels[:, None, None, None] + draw.integers(0, 80, (150, 6, 6, 3))
    return kd.data.arrays(shades.astype("u1"), labels, class_names=["dark", "grey", "light"])


class Line(nn.Module):
    """A network of this module, which can be imported by its name."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.ReLU())
        self.head = nn.Linear(6, num_classes)

    def forward(self, images):
        return self.head(self.body(images))


@pytest.mark.slow
def test_own_networks_and_images_end_in_a_verdict(cli, images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    teacher = kd.train(network, images, "optim.lr=0.05", epochs=5)
    assert teacher.metrics["test/acc"] > 0.4
    assert teacher.metrics["images/names"] == '["dark", "grey", "light"]'
    assert teacher.target.startswith("python:Sequential-")
    logits = teacher.network()(torch.zeros(2, 3, 6, 6))
    assert logits.shape == (2, 3)
    assert kd.train(network, images, "optim.lr=0.05", epochs=5) == teacher, "complete already"
    with torch.no_grad():
        network[1].weight.zero_()
    assert kd.train(network, images, epochs=2).target != teacher.target, "another network"

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.ReLU(), nn.Linear(4, 3))

    numbers = {"T": [1, 2], "alpha": [0, 0.5], "seeds": range(2), "epochs": 2}
    sweep = kd.distill(
        make, teacher, images, method="rkd", hidden="2", teacher_hidden="1", **numbers
    )
    assert len(sweep.frame) == 10
    assert sweep.frame["run"].is_unique
    assert set(sweep.frame["stage"]) == {"student", "distill"}
    assert sweep.frame["kd/T"].dropna().unique().tolist() == [1, 2]
    assert re.match("(works|does not work|cannot tell): ", sweep.verdict)
    assert sweep.report("out") == Path("out/index.html")
    assert "dark" in Path("out/report.md").read_text()


def scaled(factor: float) -> nn.Module:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(108, 3)
            self.factor = factor
            self.kinds = frozenset({"one", "two", "three"})

        def forward(self, images):
            return self.factor * super().forward(images.flatten(1))

    return Scaled()


def test_networks_have_one_target_each():
    """Plain attributes, code within code, what a lambda holds; and weights of instances."""
    helper = 2.0

    def make(lines):
        return lambda: nn.Sequential(*lines, nn.Linear(4, 3 + int(helper)))

    targets = [
        hand_over(lambda: scaled(1.0)),
        hand_over(lambda: scaled(0.1)),
        hand_over(make([nn.ReLU()])),
        hand_over(make([nn.Tanh()])),
        *(hand_over(nn.Linear(2, 2)) for _ in range(2)),
    ]
    assert len(set(targets)) == len(targets)
    network = scaled(3.0)
    assert hand_over(network) == hand_over(network)


@pytest.mark.slow
def test_a_target_is_the_same_in_every_process(tmp_path):
    (tmp_path / "script.py").write_text(
        "from torch import nn\nfrom kd.models._given import hand_over\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x if x.ndim in {1, 2, 'a', 'b', 'c', (1, 'd')} else (lambda y: y + 1)(x)\n"
        "print(hand_over(lambda: Net()))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, str(tmp_path / "script.py")],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PROJECT)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(said) == 1


def test_one_object_for_all_runs_is_copied_for_each(cli, images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    first = kd.train(lambda: network, images, epochs=1, study="one")
    second = kd.train(lambda: network, images, epochs=1, study="two")
    assert first.metrics["predictions/sha256"] == second.metrics["predictions/sha256"]


def test_a_class_that_can_be_imported_is_recorded_as_such(cli, images):
    teacher = kd.train(Line, images, epochs=1)
    assert teacher.target == f"{Line.__module__}.Line"
    assert teacher.metrics["model/target"] == teacher.target


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (3, "network: is a int; give a torch.nn.Module or what makes one"),
        (lambda: 3, "network: gives a int, no torch.nn.Module"),
        (lambda needed: needed, "network: cannot be made without arguments"),
        (nn.Flatten(), r"python:Flatten-\w+: gives \(2, 108\) for 2 images, not logits \(2, 3\)"),
        ("nowhere.Net", r"model\.target=nowhere\.Net: cannot be imported"),
    ],
)
def test_what_is_no_network_is_one_line(cli, images, network, said):
    with pytest.raises(kd.UserError, match=said):
        kd.train(network, images, epochs=1)
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_the_notebook_runs_and_ends_with_a_verdict(tmp_path):
    book = nbformat.read(PROJECT / "examples" / "your_own.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PROJECT))
        NotebookClient(book, timeout=600, resources=resources).execute()
    said = "".join(out["text"] for out in book.cells[-1]["outputs"])
    assert re.search("^(works|does not work|cannot tell): ", said, re.M)
    assert (tmp_path / "report" / "index.html").exists()


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
