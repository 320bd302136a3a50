"""One run: what it leaves behind, and what happens when it is asked for again."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import DIGITS, MINI, complete, interrupting, metrics, one_line, tree, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd import metrics as fidelity
from kd.config.schema import Data
from kd.data.pool import load_pool
from kd.files import PROJECT, file_hash
from kd.training import material, unfinished
from kd.training.checkpoint import load_checkpoint

FILES = {
    ".hydra/config.yaml",
    ".hydra/hydra.yaml",
    ".hydra/overrides.yaml",
    "train.log",
    "history.csv",
    "model.ckpt",
    "predictions.npz",
    "metrics.json",
}
SUFFIX = ",data=mnist_mini,trainer.max_epochs=2"


def run_folder(stage: str, name: str = "seed=0", study: str = "main") -> Path:
    return Path("outputs", study, stage, name + SUFFIX)


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


def test_the_history_has_a_row_per_epoch(cli):
    cli("stage=student", *MINI, "checkpoint=best")
    found, history = metrics(run_folder("student", "seed=0,checkpoint=best")), None
    with Path(run_folder("student", "seed=0,checkpoint=best"), "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert list(history[0]) == [
        *("epoch", "train/lr", "train/loss", "train/acc", "val/loss", "val/acc")
    ]
    assert [row["epoch"] for row in history] == ["1", "2"]
    kept = history[found["epochs"] - 1]
    assert all(float(kept[tag]) == found[tag] for tag in kept if tag != "epoch")


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
    pool = load_pool(Data(dir=str(DIGITS), source="folder"), torch.device("cpu"))
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
    assert len(list(folder.glob("events.out.tfevents*"))) == 1, "the first run's curves are gone"


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
    assert len(list(folder.glob("events.out.tfevents*"))) == 1, (
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
    assert "the teacher (it was trained again since)" in said.err


def test_the_same_command_twice_gives_the_same_files(cli, teacher):
    for study in ("a", "b"):
        cli("stage=distill", *MINI, f"study={study}", f'teacher.checkpoint="{teacher}"')
    one, other = (next(Path("outputs", s, "distill").iterdir()) for s in "ab")
    for name in ("model.ckpt", "predictions.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.slow
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
    said = cli("stage=student", *MINI, "optim.lr=1e38")
    (log,) = (p.read_text() for p in Path("outputs/main/student").glob("*lr=1e*/train.log"))
    assert said.err.strip().removeprefix("error: ") in log
    assert "Traceback" in log


@pytest.mark.parametrize("sweep", [(), ("-m", "kd.T=1,2")])
def test_a_run_that_is_refused_leaves_nothing(cli, sweep):
    said = cli(*sweep, "stage=distill", *MINI, "study=typo")
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "no complete teacher of seed 0 in outputs/typo/teacher" in said.err
    assert not Path("outputs/typo").exists()


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
def test_a_network_that_is_no_number_is_no_result(cli, sweep):
    said = cli(*sweep, "stage=student", *MINI, "optim.lr=1e38")
    assert said.code == 1
    assert "training diverged: " in said.out + said.err
    assert "Traceback" not in said.out + said.err
    assert not list(Path("outputs").glob("main/student/*/metrics.json"))
    assert not list(Path("outputs").glob("main/student/*/model.ckpt"))


def test_weights_that_are_no_numbers_fail_whatever_the_loss(cli, monkeypatch):
    from kd.training.book import Bookkeeper

    def spoil(self, student):
        weights = healthy(self, student)
        weights["output.bias"][3] = math.inf
        return weights

    healthy = Bookkeeper.weights_kept
    monkeypatch.setattr(Bookkeeper, "weights_kept", spoil)
    said = cli("stage=student", *MINI)
    assert "weights are not finite and test logits are not finite in epoch 2" in said.err


def test_images_that_have_changed_are_not_skipped_over(cli, tmp_path):
    digits = Path(shutil.copytree(DIGITS, tmp_path / "digits"))
    words = ("stage=student", *MINI, "data.dir=digits")
    assert cli(*words).code == 0
    assert "skipped" in cli(*words).out
    (labels,) = digits.glob("MNIST/raw/train-labels*")
    content = bytearray(labels.read_bytes())
    content[8] = (content[8] + 1) % 10
    labels.write_bytes(content)
    for sweep in ((), ("-m", "seed=0,1")):
        said = cli(*sweep, *words)
        assert said.code == 1
        assert "holds a complete run of other settings: the images (" in said.out + said.err
    shutil.rmtree(digits)
    assert "skipped" in cli(*words).out, "a complete run needs its images no more"


MALFORMED = (
    b"",
    b"{}",
    b"[]",
    b"5",
    b"[" * 50_000,
    b"\xff\xfe",
    b"a: [1, b: {",
    b"{1: 2}",
    b"!x y",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.json", ".hydra/config.yaml"])
def test_malformed_files_of_a_complete_run_are_named(cli, name):
    cli("stage=student", *MINI)
    path = run_folder("student") / name
    for content in MALFORMED:
        path.write_bytes(content)
        for sweep in ((), ("-m", "seed=0,1"))[: 1 + (content in MALFORMED[:2])]:
            said = cli(*sweep, "stage=student", *MINI)
            assert said.code == 1, content
            assert "Traceback" not in said.out + said.err
            assert str(path) in said.out + said.err
            assert said.err.count("\n") == 1
            assert path.read_bytes() == content, "nothing is trained over unasked"
    assert cli("stage=student", *MINI, "overwrite=true").code == 0


def test_another_process_is_not_trained_over(cli, teacher):
    """The lock is another process's, as tests in one process could enter their own."""
    words = ("stage=distill", *MINI)
    assert cli(*words).code == 0
    (run,) = Path("outputs/main/distill").iterdir()
    (run / "metrics.json").unlink()
    before = tree(run)
    code = (
        "import sys, pathlib, kd.training.run_folder\n"
        f"held = kd.training.run_folder.hold(pathlib.Path({str(run.absolute())!r}))\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT
    )
    try:
        assert holder.stdout.readline() == b"locked\n"
        for sweep in ((), ("-m", "seed=0,1")):
            said = cli(*sweep, *words)
            assert said.code == 1
            assert f"{run.name}: another process is training this run" in said.err
            assert said.err.count("\n") == 1
        assert tree(run) == before
        assert len(list(run.parent.iterdir())) == 1
    finally:
        holder.kill()
        holder.wait()
    assert cli(*words).code == 0, "a lock ends with its process"


def test_what_a_killed_run_left_is_cleared(cli):
    cli("stage=student", *MINI)
    folder = run_folder("student")
    clean = {path.name for path in folder.iterdir()}
    for name in ("metrics.json", "train.log"):
        (folder / name).unlink()
    for name in ("model.ckpt", "metrics.json", "predictions.npz"):
        (folder / f".{name}.0123abcd").write_bytes(b"half")
    (folder / ".hydra" / ".config.yaml.0123abcd").write_bytes(b"half")
    umask = os.umask(0o027)
    try:
        cli("stage=student", *MINI)
    finally:
        os.umask(umask)
    found = {path.name.split(".out")[0] for path in folder.iterdir()}
    assert found == {name.split(".out")[0] for name in clean}
    assert len(list((folder / ".hydra").iterdir())) == 3
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}
    assert modes == {0o640}


def test_metrics_say_what_they_were_made_with(cli):
    cli("stage=student", *MINI)
    found = metrics(run_folder("student"))
    assert found["predictions/sha256"] == file_hash(run_folder("student") / "predictions.npz")
    commit = found["git/commit"]
    assert (commit is None) == (found["git/dirty"] is None)
    assert commit is None or isinstance(found["git/dirty"], bool)


def test_a_path_with_equals_signs_needs_no_quotes(cli, teacher):
    checkpoint = teacher.relative_to(Path.cwd()) / "model.ckpt"
    said = cli("stage=distill", *MINI, f"teacher.checkpoint={checkpoint}")
    assert said.code == 0, said.err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("centre", ["false", "true"])
def test_a_gpu_learns_what_a_cpu_learns(centre, cli):
    for accelerator in ("cpu", "gpu"):
        said = f"trainer={accelerator}", "model.dropout=0", f"data.centre={centre}"
        assert cli("stage=student", *MINI, *said).code == 0
    cpu, gpu = (metrics(p) for p in sorted(Path("outputs/main/student").iterdir()))
    assert gpu["val/loss"] == pytest.approx(cpu["val/loss"], rel=0.05)


INTERRUPTED = [
    *("checkpoint=last", "checkpoint=best", "optim=adamw optim.schedule=onecycle"),
    "optim=sgd optim.schedule=onecycle optim.lr=0.01",
]


@pytest.mark.parametrize("given", INTERRUPTED)
def test_a_run_that_is_interrupted_goes_on_where_it_was(cli, given):
    """Views, dropout and the order of batches go on too: it ends as if undisturbed."""
    views = ("data.augment.shift=2", "data.augment.mixup=0.5")
    words = ("stage=student", "data=mnist_mini", "trainer.max_epochs=4", *views)
    words += (*given.split(), "keep_epochs=true")
    assert cli(*words, "study=whole").code == 0

    with interrupting(2):
        said = cli(*words, "study=cut")
    assert said.code == 130
    assert "interrupted after 2 epochs; the same command continues there" in said.out
    said = cli(*words, "study=cut")
    assert said.code == 0, said.err
    assert "an earlier attempt ended after epoch 2: continuing" in said.out
    assert not Path("outputs/cut/unfinished").exists()
    (whole,), (cut,) = (list(Path("outputs", s, "student").iterdir()) for s in ("whole", "cut"))
    assert {p.name for p in cut.iterdir()} - {p.name for p in whole.iterdir()} <= {
        p.name for p in cut.glob("events*")
    }
    for file in ("model.ckpt", "epochs/1.ckpt", "epochs/4.ckpt", "predictions.npz"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file
    curves = (EventAccumulator(str(run)).Reload().Scalars("val/loss") for run in (whole, cut))
    undisturbed, resumed = ([(e.step, e.value) for e in curve] for curve in curves)
    assert undisturbed == resumed


def test_a_state_of_other_settings_is_not_gone_on_with(cli):
    words = ("stage=student", *MINI)

    with interrupting():
        cli(*words)
        assert "an earlier attempt" not in cli(*words, "overwrite=true").out
    said = cli("+experiment=talk", "study=main", *words)  # of the same folder
    assert "removed, the training starts over" in said.out
    assert said.code == 0


def test_what_a_run_that_was_killed_at_its_end_left_is_removed(cli):
    words = ("stage=student", *MINI)
    cli(*words)
    before = tree(Path("outputs"))
    (run,) = Path("outputs/main/student").iterdir()
    left = Path("outputs/main/unfinished", f"{unfinished.name_of(run)}.json")
    left.parent.mkdir()
    left.write_text("{}")
    assert "skipped: complete already" in cli(*words).out
    assert tree(Path("outputs")) == before


IMPATIENT = ("stage=student", "data=mnist_mini", "trainer.max_epochs=12", "optim.lr=0.05")


def test_patience_stops_a_training_that_no_longer_improves(cli):
    for study, words in (("whole", []), ("stopped", ["trainer.patience=2"])):
        assert cli(*IMPATIENT, "optim.schedule=constant", f"study={study}", *words).code == 0
    (whole,), (stopped,) = (complete(study) for study in ("whole", "stopped"))
    curves = [EventAccumulator(str(run)).Reload().Scalars("val/loss") for run in (whole, stopped)]
    losses, until = ([point.value for point in curve] for curve in curves)
    assert until == losses[: len(until)]
    best = until.index(min(until))
    assert len(until) == metrics(stopped)["epochs"] == best + 1 + 2 < 12
    assert metrics(stopped)["val/loss"] == pytest.approx(until[-1])


def test_patience_keeps_the_best_epochs_weights_if_these_are_wanted(cli):
    assert cli(*IMPATIENT, "trainer.patience=2", "checkpoint=best", "keep_epochs=true").code == 0
    (run,) = complete()
    last = len(list((run / "epochs").iterdir()))
    assert metrics(run)["epochs"] <= last < 12
    of_epoch = run / "epochs" / f"{metrics(run)['epochs']}.ckpt"
    kept = torch.load(of_epoch, weights_only=True)["state_dict"]
    assert all(torch.equal(kept[name], mine) for name, mine in weights(run).items())


@pytest.mark.parametrize("after", ["an epoch", "the last epoch"])
def test_patience_goes_on_where_it_was(cli, after):
    words = (*IMPATIENT, "trainer.patience=2", "keep_epochs=true")
    assert cli(*words, "study=whole").code == 0
    (whole,) = complete("whole")
    epochs = metrics(whole)["epochs"]
    cut_at = epochs if after == "the last epoch" else epochs - 1

    with interrupting(cut_at):
        assert cli(*words, "study=cut").code == 130
    said = cli(*words, "study=cut")
    assert f"an earlier attempt ended after epoch {cut_at}: continuing" in said.out
    (cut,) = complete("cut")
    assert metrics(cut)["epochs"] == epochs
    for file in ("model.ckpt", f"epochs/{epochs}.ckpt", "predictions.npz"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file


@pytest.mark.parametrize("stage", ["teacher", "student", "distill"])
def test_in_mixed_precision_a_network_trains_and_is_tested_in_full(cli, teacher, stage):
    """Its losses have float32's digits, and its figures are about those of full precision."""
    words = (f"stage={stage}", *MINI, "data.augment.shift=1", "checkpoint=best")
    words = (*words, f"teacher.checkpoint={teacher}", "kd=pkt", "kd.alpha=0.9")
    for precision in ("32", "bf16"):
        said = cli(*words, f"trainer.precision={precision}", f"study=in{precision}")
        assert said.code == 0, said.err
    (full,), (mixed,) = (complete(study, stage) for study in ("in32", "inbf16"))
    assert metrics(mixed)["trainer/precision"] == "bf16"
    mine, its = weights(mixed), weights(full)
    assert {value.dtype for value in mine.values()} == {torch.float32}
    assert not all(torch.equal(mine[name], its[name]) for name in its)
    for figure in ("train/loss", "val/loss", "test/loss"):
        value = metrics(mixed)[figure]
        assert value == pytest.approx(metrics(full)[figure], rel=0.2)
        assert torch.tensor(value).bfloat16().item() != pytest.approx(value, rel=1e-6)


def test_mixed_precision_trains_students_of_a_sweep_apart(cli):
    said = cli("-m", "stage=student", *MINI, "trainer.precision=bf16", "seed=0,1")
    assert "2 of 2 runs train alone: trainer.precision=bf16 is of students that" in said.out
    assert said.code == 0


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_a_device_without_mixed_precision_is_refused(cli, monkeypatch, sweep):
    mps = material.Accelerator("mps", torch.device("mps"))
    monkeypatch.setattr(material, "choose_accelerator", lambda wanted: mps)
    said = cli(*sweep, "stage=student", *MINI, "trainer.precision=bf16")
    assert said.code == 1
    one_line(said.err, "trainer.precision=bf16: this machine's mps does not compute in it; use")
    assert not complete()


@pytest.mark.slow
def test_debugging_takes_every_path_in_a_study_of_its_own(cli):
    fast = ("data=mnist_mini", "debug=fast")
    said = cli("stage=distill", *fast)
    one_line(said.err, "first run: python train.py stage=teacher data=mnist_mini debug=fast")
    for words in (["stage=teacher"], ["stage=student"], ["stage=distill"], ["stage=distill"]):
        said = cli(*words, *fast)
        assert said.code == 0, said.err
        assert "skipped" not in said.out
    said = cli("-m", "stage=student,distill", *fast, "kd.T=1,4", "seed=0,1")
    assert "6 students train together" in said.out
    assert said.code == 0, said.err
    assert cli("stage=report", *fast).code == 0
    assert Path("outputs/debug/report/index.html").exists()
    assert [path.name for path in Path("outputs").iterdir()] == ["debug"]
    assert len(complete("debug")) == 1 + 2 + 4 + 1
    for run in complete("debug"):
        found = metrics(run)
        assert (found["epochs"], found["trainer/limit_batches"]) == (1, 2)
        assert "debug" not in run.name


def test_debugging_an_experiment_does_not_touch_its_study(cli):
    words = ("+experiment=talk", "stage=student", "data=mnist_mini", "data.split=pooled")
    assert cli("debug=fast", *words).code == 0
    assert [path.name for path in Path("outputs").iterdir()] == ["debug"]
    (run,) = complete("debug")
    assert (metrics(run)["optim/eps"], metrics(run)["data/batch_size"]) == (1e-7, 32)


def test_ctrl_c_promises_what_is_true(cli):
    words = ("stage=student", *MINI)
    with interrupting():
        said = cli(*words, "overwrite=true")
    assert said.code == 130
    assert said.err == "interrupted\n"
    assert "after 1 epoch; the same command without overwrite=true continues there" in said.out
    assert "an earlier attempt ended after epoch 1: continuing" in cli(*words).out
    with pytest.MonkeyPatch.context() as patch:

        def press(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("kd.training.callbacks.ShowProgress.on_train_epoch_end", press)
        said = cli(*words, "overwrite=true")
    assert said.code == 130
    assert "interrupted in the first epoch; the same command starts over" in said.out


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_no_training(tmp_path):
    command = [sys.executable, str(PROJECT / "train.py"), "stage=student", *MINI]
    run = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout
    run.stdout.close()
    assert run.stderr
    assert run.stderr.read() == ""
    assert run.wait() == 0
    assert list(tmp_path.glob("outputs/main/student/*/metrics.json"))


def test_tensorboard_opens_on_curves_and_hparams_on_what_differs(cli, teacher):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    said = cli("-m", "stage=student,distill", *MINI)
    assert said.code == 0, said.err
    (alone,), (run,) = complete(stage="student"), complete(stage="distill")
    assert len(list(run.glob("events*"))) == 1
    events = EventAccumulator(str(run)).Reload()
    tags = sorted(events.Tags()["scalars"])
    assert tags[:5] == ["train/acc", "train/loss", "train/lr", "val/acc", "val/loss"]
    assert all(tag.startswith("when_trained/") for tag in tags[5:])
    (gain,) = events.Scalars("when_trained/test/gain")
    expected = metrics(run)["test/acc"] - metrics(alone)["test/acc"]
    assert gain.value == pytest.approx(expected, abs=1e-6)
    assert "test/gain" not in metrics(run)
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = HParamsPluginData.FromString(content).experiment
    first = {column.name for column in experiment.hparam_infos if column.differs}
    assert first == {"kd/T", "kd/alpha", "seed", "stage"}
    assert [metric.display_name for metric in experiment.metric_infos][:2] == [
        "test accuracy",
        "gain over the student alone",
    ]
    single = cli("stage=student", *MINI, "seed=1")
    assert "tensorboard --logdir outputs/main)" in single.out
