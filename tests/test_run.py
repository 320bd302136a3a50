"""One run: what it leaves behind, and what happens when it is asked for again."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import MINI, tree

from kd import fidelity
from kd.checkpoint import load_checkpoint
from kd.config import PROJECT
from kd.data import load_pool

FILES = {
    ".hydra/config.yaml",
    ".hydra/hydra.yaml",
    ".hydra/overrides.yaml",
    "train.log",
    "model.ckpt",
    "predictions.npz",
    "metrics.json",
}
SUFFIX = ",data=mnist_mini,trainer.max_epochs=2"


def run_folder(stage: str, name: str = "seed=0", study: str = "main") -> Path:
    return Path("outputs", study, stage, name + SUFFIX)


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_a_run_leaves_everything_behind(cli, teacher):
    said = cli("stage=distill", *MINI, "kd.T=4", "kd.alpha=0.25")
    assert said.code == 0, said.err
    folder = run_folder("distill", "T=4.0,alpha=0.25,seed=0")
    assert set(tree(folder)) >= FILES
    assert any(name.startswith("events.out.tfevents") for name in tree(folder))
    found = metrics(folder)
    expected = {
        "stage": "distill",
        "study": "main",
        "seed": 0,
        "data/seed": 0,
        "kd/method": "hinton",
        "kd/T": 4.0,
        "kd/alpha": 0.25,
        "model/name": "mlp",
        "model/params": 25_450,
        "epochs": 2,
        "teacher/checkpoint": str((teacher / "model.ckpt").relative_to(Path.cwd())),
        "version/torch": torch.__version__,
    }
    assert {key: found[key] for key in expected} == expected
    for key in ("train/loss", "val/loss", "test/loss", "fidelity/kl", "time/fit_s"):
        assert found[key] > 0
    for key in ("train/acc", "val/acc", "test/acc", "test/ece", "fidelity/agreement"):
        assert 0 <= found[key] <= 1
    assert "version/python" in found
    assert "version/lightning" in found
    assert "git/commit" in found


def test_the_last_line_says_where_the_results_are(cli):
    said = cli("stage=student", *MINI)
    assert said.out.strip().splitlines()[-1].startswith(f"results: {run_folder('student')}")
    assert "25450" in said.out
    assert said.err == ""


def test_the_figures_are_those_of_predictions_and_checkpoint(cli, teacher):
    cli("stage=distill", *MINI)
    folder = run_folder("distill", "T=2.0,alpha=0.5,seed=0")
    kept, found = np.load(folder / "predictions.npz"), metrics(folder)
    assert kept["logits"].dtype == np.float32
    logits, labels = torch.from_numpy(kept["logits"]), torch.from_numpy(kept["labels"])
    assert fidelity.accuracy(logits, labels).item() == pytest.approx(found["test/acc"])
    pool = load_pool("MNIST", str(PROJECT / "tests/mnist_mini"), "folder", torch.device("cpu"))
    indices = torch.from_numpy(kept["indices"])
    assert torch.equal(pool.labels[indices], labels)
    with torch.no_grad():
        student = load_checkpoint(folder / "model.ckpt")(pool.images[indices])
        taught = load_checkpoint(teacher / "model.ckpt")(pool.images[indices])
    assert torch.allclose(student, logits, atol=1e-5)
    agreement = fidelity.agreement(logits, taught).item()
    assert agreement == pytest.approx(found["fidelity/agreement"])
    kl = fidelity.predictive_kl(logits, taught).item()
    assert kl == pytest.approx(found["fidelity/kl"], rel=1e-4)


def test_the_checkpoint_is_the_best_epochs_where_that_is_asked_for(cli):
    words = ("checkpoint=best", "optim=keras", "optim.lr=0.05", "trainer.max_epochs=6")
    cli("stage=student", "data=mnist_mini", *words)
    (folder,) = Path("outputs/main/student").iterdir()
    found, log = metrics(folder), (folder / "train.log").read_text()
    accuracies = [float(line.split()[-1]) for line in log.splitlines() if "epoch " in line]
    assert len(accuracies) == 6
    assert found["epochs"] == accuracies.index(max(accuracies)) + 1
    assert found["val/acc"] == max(accuracies)


def test_a_complete_run_is_skipped(cli):
    cli("stage=student", *MINI)
    before = tree(Path("outputs"))
    said = cli("stage=student", *MINI)
    assert said.code == 0
    assert "skipped: complete already" in said.out
    assert tree(Path("outputs")) == before


def test_other_settings_are_refused_by_name(cli):
    cli("stage=student", *MINI)
    before = tree(Path("outputs"))
    said = cli("+experiment=talk", "study=main", "stage=student", *MINI)
    assert said.code == 1
    for word in ("optim.lr (0.01 there, 0.001 here)", "study=NEW", "overwrite=true"):
        assert word in said.err
    assert tree(Path("outputs")) == before


def test_other_unverified_data_is_not_taken_for_the_same(cli):
    cli("stage=student", *MINI)
    said = cli("stage=student", *MINI, "data.dir=elsewhere")
    assert said.code == 1
    assert "data.dir" in said.err
    assert "elsewhere here" in said.err


def test_overwrite_trains_again(cli):
    cli("stage=student", *MINI)
    said = cli("+experiment=talk", "study=main", "stage=student", *MINI, "overwrite=true")
    assert said.code == 0, said.err
    folder = run_folder("student")
    assert metrics(folder)["optim/lr"] == 1e-3
    saved = yaml.safe_load((folder / ".hydra/config.yaml").read_text())
    assert saved["optim"]["lr"] == 1e-3
    assert len(list(folder.glob("events.out.tfevents*"))) == 2, "the first run's curves are gone"


def test_overwrite_loses_nothing_when_it_cannot_start(cli):
    cli("stage=student", *MINI)
    before = tree(Path("outputs"))
    said = cli("stage=student", *MINI, "overwrite=true", "data.dir=/nowhere")
    assert said.code == 1
    assert "data.dir=/nowhere" in said.err
    assert tree(Path("outputs")) == before


def test_an_incomplete_run_is_trained_again(cli):
    cli("stage=student", *MINI)
    folder = run_folder("student")
    wanted = torch.load(folder / "model.ckpt", weights_only=True)["state_dict"]
    (folder / "metrics.json").unlink()
    (folder / "model.ckpt").write_bytes(b"half a checkpoi")
    said = cli("stage=student", *MINI)
    assert said.code == 0
    found = torch.load(folder / "model.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert len(list(folder.glob("events.out.tfevents*"))) == 2, (
        "the first attempt's curves are gone"
    )


def test_a_distillation_notices_that_its_teacher_changed(cli, teacher):
    words = ("stage=distill", *MINI)
    assert cli(*words).code == 0
    assert "skipped" in cli(*words).out
    assert cli("stage=teacher", *MINI, "overwrite=true").code == 0
    assert "skipped" in cli(*words).out, "the same teacher, bit for bit"
    checkpoint = torch.load(teacher / "model.ckpt", weights_only=True)
    torch.save(checkpoint | {"epoch": 1}, teacher / "model.ckpt")
    said = cli(*words)
    assert said.code == 1
    assert "the teacher (it was trained anew since)" in said.err


def test_the_same_command_twice_gives_the_same_files(cli, teacher):
    for study in ("a", "b"):
        cli("stage=distill", *MINI, f"study={study}", f'teacher.checkpoint="{teacher}"')
    one, other = (next(Path("outputs", s, "distill").iterdir()) for s in "ab")
    for name in ("model.ckpt", "predictions.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_run_does_not_depend_on_what_ran_before(cli, teacher):
    words = ("stage=distill", *MINI, f'teacher.checkpoint="{teacher}"')
    cli(*words, "study=alone", "kd.T=4", "kd.alpha=0")
    one_by_one = "hydra/launcher=basic"  # together, rounding differs
    cli("-m", *words, "study=swept", "kd.T=1,4", "kd.alpha=1,0", "seed=1,0", one_by_one)
    (alone,) = Path("outputs/alone/distill").glob("T=4.0,alpha=0.0,seed=0*/model.ckpt")
    (swept,) = Path("outputs/swept/distill").glob("T=4.0,alpha=0.0,seed=0*/model.ckpt")
    assert alone.read_bytes() == swept.read_bytes()


def test_results_csv_has_a_row_a_complete_run(cli, teacher):
    cli("stage=student", *MINI)
    cli("stage=distill", *MINI)
    with open("outputs/main/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["distill", "student", "teacher"]
    for row in rows:
        found = json.loads(Path("outputs/main", row["run"], "metrics.json").read_text())
        assert float(row["test/acc"]) == found["test/acc"]


def test_an_ensemble_teaches(cli, teacher):
    cli("stage=teacher", *MINI, "seed=1")
    other = run_folder("teacher", "seed=1")
    said = cli("stage=distill", *MINI, f'teacher.checkpoint=["{teacher}","{other}"]')
    assert said.code == 0, said.err
    (folder,) = Path("outputs/main/distill").iterdir()
    assert metrics(folder)["teacher/checkpoint"].count("model.ckpt") == 2


def test_the_log_has_what_was_said_and_a_failures_traceback(cli):
    said = cli("stage=student", *MINI)
    log = (run_folder("student") / "train.log").read_text()
    for line in said.out.splitlines():
        assert line in log or line.startswith("results:")
    cli("stage=distill", *MINI)
    log = (run_folder("distill", "T=2.0,alpha=0.5,seed=0") / "train.log").read_text()
    assert "no complete teacher" in log
    assert "Traceback" in log


def test_a_path_with_equals_signs_needs_no_quotes(cli, teacher):
    checkpoint = teacher.relative_to(Path.cwd()) / "model.ckpt"
    said = cli("stage=distill", *MINI, f"teacher.checkpoint={checkpoint}")
    assert said.code == 0, said.err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_learns_what_a_cpu_learns(cli):
    for accelerator in ("cpu", "gpu"):
        assert cli("stage=student", *MINI, f"trainer={accelerator}", "model.dropout=0").code == 0
    cpu, gpu = (metrics(p) for p in sorted(Path("outputs/main/student").iterdir()))
    assert gpu["val/loss"] == pytest.approx(cpu["val/loss"], rel=0.05)
