"""Sweeps: the customer's grid, failures among the jobs, and being killed half-way."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import MINI, one_line
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd.files import PROJECT
from kd.training.run_folder import write_metrics

GRID = ("kd.T=1,2,5,10", "kd.alpha=0,0.25,0.5,0.75,1")


def table(out: str) -> list[list[str]]:
    """The figures of the printed table, row by row."""
    return [re.findall(r"0\.\d{4}", line) for line in out.splitlines() if re.match(r"│ T = ", line)]


def test_the_customers_sweep(cli, teacher):
    said = cli("-m", "stage=distill", *MINI, *GRID)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert sum(bool(re.match(r"\[\d+/20\] distill/T=", line)) for line in lines) == 20
    rows = table(said.out)
    assert [len(row) for row in rows] == [5] * 4
    assert "results: outputs/main/results.csv" in lines[-2]
    assert re.fullmatch(
        r"chosen on validation T = \d+, alpha = 0\S*: \d\d\.\d\d %; its student alone is not there "
        "to compare; next: python train.py stage=report",
        lines[-1],
    )
    header = next(line for line in lines if "alpha =" in line)
    assert re.findall(r"[\d.]+", header) == ["0", "0.25", "0.5", "0.75", "1"]
    for T, row in zip((1, 2, 5, 10), rows, strict=True):
        for alpha, figure in zip((0, 0.25, 0.5, 0.75, 1), row, strict=True):
            (path,) = Path("outputs/main/distill").glob(
                f"T={T:.1f},alpha={float(alpha)},seed=0,*/metrics.json"
            )
            assert f"{json.loads(path.read_text())['test/acc']:.4f}" == figure
    assert len({row[-1] for row in rows}) == 1, "at alpha = 1 the temperature plays no part"
    assert len({figure for row in rows for figure in row}) > 5

    again = cli("-m", "stage=distill", *MINI, *GRID)
    assert again.out.count("complete already, skipped") == 20
    assert table(again.out) == rows
    more = cli("-m", "stage=distill", *MINI, "kd.T=1,3", "kd.alpha=1")
    assert more.out.count("complete already, skipped") == 1


def mean_accuracy(T: float, direction: str) -> float:
    """Over the seeds of a cell, as its runs have it."""
    runs = Path("outputs/main/distill").glob(f"T={T}*kd.direction={direction}*/metrics.json")
    accuracies = [json.loads(path.read_text())["test/acc"] for path in runs]
    assert len(accuracies) == 2
    return pytest.approx(sum(accuracies) / 2, abs=6e-5)


def test_the_table_averages_seeds_and_parts_other_keys(cli, teacher):
    words = ("kd.direction=forward,reverse", "seed=0,1")
    said = cli("-m", "stage=distill", *MINI, "kd.T=1,2", *words)
    assert said.out.count("test accuracy, mean of 2 seeds") == 2
    cells = [(T, direction) for direction in ("forward", "reverse") for T in (1.0, 2.0)]
    for (T, direction), (figure,) in zip(cells, table(said.out), strict=True):
        assert float(figure) == mean_accuracy(T, direction)


def test_tables_of_one_cell_are_rows_of_one_table(cli, teacher):
    said = cli("-m", "stage=distill", *MINI, "kd.direction=forward,reverse", "seed=0,1")
    assert said.out.count("test accuracy, mean of 2 seeds") == 1
    for direction in ("forward", "reverse"):
        (row,) = re.findall(rf"kd.direction={direction} +│ 2 +│ 0.5 +│ (0\.\d+)", said.out)
        assert float(row) == mean_accuracy(2.0, direction)


def test_a_failing_job_fails_alone(cli, teacher):
    said = cli("-m", "stage=student", *MINI, "trainer=cpu,gpu", "seed=0,1")
    assert said.code == 1
    assert said.out.count("FAILED: trainer.accelerator=gpu: no GPU on this machine") == 2
    assert "2 of 4 runs complete" in said.out
    assert said.err.startswith(
        "error: 2 of 4 runs failed: trainer.accelerator=gpu: no GPU on this machine; use"
    )
    assert said.err.count("\n") == 1
    complete = {path.parent.name for path in Path("outputs/main/student").glob("*/metrics.json")}
    assert len(complete) == 2
    assert all("trainer=cpu" in name for name in complete)
    assert not list(Path("outputs/main/student").glob("*gpu*")), "nothing had begun"


def test_an_unexpected_failure_is_in_its_own_log_only(cli, teacher, monkeypatch):
    """Not a user's mistake: a bug in one cell must not take the others along."""
    import kd.training.train_run

    healthy = kd.training.train_run.evaluate

    def broken(logits, labels):
        if broken.calls == 1:
            broken.calls += 1
            raise ZeroDivisionError("a bug of ours")
        broken.calls += 1
        return healthy(logits, labels)

    broken.calls = 0
    monkeypatch.setattr(kd.training.train_run, "evaluate", broken)
    said = cli("-m", "stage=distill", *MINI, "kd.T=1,2,3")
    assert said.code == 1
    assert "FAILED: ZeroDivisionError: a bug of ours" in said.out
    assert "2 of 3 runs complete" in said.out
    logs = {
        p.parent.name[:5]: p.read_text() for p in Path("outputs/main/distill").glob("*/train.log")
    }
    assert {name: "ZeroDivisionError" in log for name, log in logs.items()} == {
        "T=1.0": False,
        "T=2.0": True,
        "T=3.0": False,
    }
    monkeypatch.undo()


def test_two_studies_in_one_sweep(cli, teacher):
    said = cli(
        "-m", "stage=student", *MINI, "study=a,b", "seed=0,1", "kd.T=1,2"
    )  # T is nothing to a student alone: each folder comes up twice, and is one run
    assert said.code == 0, said.err
    assert said.out.count("2 students train together") == 2
    assert "4 of 4 runs complete" in said.out
    assert "skipped" not in said.out
    for study in "ab":
        assert len(list(Path(f"outputs/{study}/student").glob("*/metrics.json"))) == 2
        assert Path(f"outputs/{study}/results.csv").read_text().count("\n") == 3


def test_two_jobs_of_one_folder_that_differ_are_refused(cli, teacher):
    """Long values are shortened in a folder's name; an experiment is not in it at all."""
    said = cli(
        "-m", "stage=student", *MINI, "+experiment=talk,assistant", "study=a", "overwrite=true"
    )
    assert said.code == 1
    assert "two jobs of this sweep have this folder and differ in" in said.err
    assert said.err.count("\n") == 1
    assert not list(Path("outputs").glob("a/*/*"))


def test_a_sweep_ends_with_the_choice_beside_the_student_alone(cli, teacher):
    said = cli("-m", "stage=distill,student", *MINI, "kd.alpha=0,1", "seed=0,1", "study=main")
    assert said.code == 0, said.err
    last = said.out.splitlines()[-1]
    frame = pd.read_csv("outputs/main/results.csv")
    chosen = frame[(frame["stage"] == "distill") & (frame["kd/alpha"] == 0)]["test/acc"].mean()
    alone = frame[frame["stage"] == "student"]["test/acc"].mean()
    assert last == (
        f"chosen on validation T = 2, alpha = 0: {100 * chosen:.2f} %; student alone "
        f"{100 * alone:.2f} % (test, mean of 2 seeds); next: python train.py stage=report"
    )


@pytest.mark.slow
def test_a_wide_table_continues_below(cli, teacher):
    alphas = [f"{k / 10:g}" for k in range(11)]
    said = cli("-m", "stage=distill", *MINI, "kd.T=1,2,5,10", f"kd.alpha={','.join(alphas)}")
    assert said.code == 0, said.err
    drawn = [line for line in said.out.splitlines() if line[:1] in "┏┃┡│└┗"]
    assert max(map(len, drawn)) <= 80
    heads = [line for line in drawn if "alpha =" in line]
    assert len(heads) == 2
    assert re.findall(r"[\d.]+", " ".join(heads)) == alphas
    assert sum(map(len, table(said.out))) == 44


def test_the_student_alone_is_the_control_of_its_sweep_to_the_last_bit(cli, teacher):
    said = cli("-m", "stage=student,distill", *MINI, "kd.T=1,4", "kd.alpha=0,1", "seed=0,1")
    assert said.code == 0, said.err
    assert "6 students train together" in said.out
    assert "10 of 10 runs complete" in said.out
    for seed in (0, 1):
        (alone,) = Path("outputs/main/student").glob(f"seed={seed},*")
        controls = list(Path("outputs/main/distill").glob(f"*alpha=1.0,seed={seed},*"))
        assert len(controls) == 2
        for run in controls:
            same = torch.load(run / "model.ckpt", weights_only=True)["state_dict"]
            its = torch.load(alone / "model.ckpt", weights_only=True)["state_dict"]
            assert all(torch.equal(same[name], its[name]) for name in its)
        metrics = json.loads((alone / "metrics.json").read_text())
        assert metrics["kd/method"] is metrics["teacher/sha256"] is None
        assert "fidelity/agreement" not in metrics


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((), "no complete teacher of seed 0 in outputs/main/teacher; first run:"),
        (("teacher.checkpoint=gone.pt",), "gone.pt: no such checkpoint"),
    ],
)
def test_a_missing_teacher_is_said_once_before_any_training(cli, given, why):
    said = cli("-m", "stage=student,distill", *MINI, "seed=0,1", *given)
    assert said.code == 1
    one_line(said.err, why)
    assert "epoch" not in said.out
    assert not list(Path("outputs").glob("*/student"))


def stop_at(monkeypatch, count: int) -> None:
    """Have Ctrl-C come when the ``count``-th run of the process is about to be complete."""
    import kd.training.train_run

    calls = iter(range(1, 10_000))

    def write(*arguments):
        if next(calls) == count:
            raise KeyboardInterrupt
        healthy(*arguments)

    healthy = kd.training.run_folder.write_metrics
    monkeypatch.setattr(kd.training.run_folder, "write_metrics", write)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [5, *(pytest.param(other, marks=pytest.mark.slow) for other in (2, 9))]
)
def test_a_sweep_of_several_groups_goes_on_as_it_was_planned(cli, teacher, monkeypatch, moment):
    from kd.sweeps import grouping

    monkeypatch.setattr(grouping, "bytes_of_each", lambda configs, _: [2**20] * len(configs))
    words = ("-m", "stage=student", *MINI, "seed=range(0,11)", "trainer.group_mb=3")
    whole = cli(*words, "study=whole")
    assert re.findall(r"(\d) students train together", whole.out) == ["3", "2", "3", "3"]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, moment)
        assert cli(*words, "study=cut").code == 130
    assert len(list(Path("outputs/cut/student").glob("*/metrics.json"))) == moment - 1
    assert cli(*words, "study=cut").code == 0
    assert not Path("outputs/cut/unfinished").exists()
    for run in Path("outputs/whole/student").iterdir():
        same = Path("outputs/cut/student", run.name)
        assert (same / "model.ckpt").read_bytes() == (run / "model.ckpt").read_bytes()


@pytest.mark.slow
def test_groups_that_nobody_can_use_are_removed_and_said(cli, teacher, monkeypatch):

    words = ("-m", "stage=student", *MINI, "seed=0,1")
    stop_at(monkeypatch, 1)
    cli(*words)
    (state,) = Path("outputs/main/unfinished").glob("*.ckpt")
    note = state.with_name(f"{state.name.split('-')[0]}.json")
    plans = [state.with_name("plan.json"), state.with_name("plan.copy.json")]
    kept = {path: path.read_bytes() for path in (state, note, *plans)}
    flipped = bytearray(kept[state])
    flipped[len(flipped) // 2] ^= 1
    other = kept[plans[0]].replace(b'"seed": 1', b'"seed": 2')
    for damage in (
        {state: bytes(flipped)}, {state: b""}, {note: b"{}"}, {note: b"[" * 100_000},
        *(dict.fromkeys(plans, plan) for plan in (other, b'{"group": 5}', b"[5]", b"\xff")),
    ):  # fmt: skip
        for path, content in (kept | damage).items():
            path.write_bytes(content)
        stop_at(monkeypatch, 1)
        said = cli(*words)
        assert "Traceback" not in said.out + said.err
        assert re.search("removed|start over", said.out), damage
        assert "continuing" not in said.out
    for path, content in (kept | {plans[0]: other}).items():
        path.write_bytes(content)
    stop_at(monkeypatch, 1)
    assert "continuing" in cli(*words).out, "the copy stands in"
    for path in list(state.parent.iterdir()):
        path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    (state.parent / "odd.ckpt").write_bytes(b"")
    monkeypatch.setattr("kd.sweeps.plan.version", lambda: "of other code")
    monkeypatch.setattr("kd.training.run_folder.write_metrics", write_metrics)
    said = cli(*words)
    assert "2 students of other code or another torch were in training; removed" in said.out
    assert "odd.ckpt: belongs to no group in training; removed" in said.out
    assert said.code == 0
    assert not state.parent.exists()


def test_overwrite_starts_anew(cli, teacher, monkeypatch):
    words = ("-m", "stage=student", *MINI, "seed=0,1", "overwrite=true")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2)
        cli(*words)
    said = cli(*words)
    assert said.code == 0
    assert "continuing" not in said.out
    assert not Path("outputs/main/unfinished").exists()


def test_a_group_too_large_for_the_memory_names_it(cli, teacher, monkeypatch):
    monkeypatch.setattr("kd.training.memory.available_bytes", lambda: 2**20)
    said = cli("-m", "stage=student", *MINI, "seed=0,1,2")
    assert said.code == 1
    assert "a group of 3 students needs about" in said.err
    assert "trainer.group_mb (it is 128)" in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.out + said.err


def test_a_wrong_cell_stops_the_sweep_before_it_starts(cli, teacher):
    said = cli("-m", "stage=distill", *MINI, "kd.T=1,2", "kd.alpha=0,2")
    assert said.code == 1
    assert "kd.alpha=2: must be a number from 0 to 1" in said.err
    assert not Path("outputs/main/distill").exists()


def test_hydras_own_launcher_works_too(cli, teacher):
    said = cli("-m", "stage=distill", *MINI, "hydra/launcher=basic", "kd.T=1,2")
    assert said.code == 0, said.err
    assert len(list(Path("outputs/main/distill").glob("*/metrics.json"))) == 2
    assert Path("outputs/main/results.csv").read_text().count("\n") == 4
    ours = cli("-m", "stage=distill", *MINI, "kd.T=1,2")
    assert ours.out.count("complete already, skipped") == 2, "no launcher's name in a run's"


def epochs_of_group(study: str) -> int:
    """After which epoch the study's unfinished group was last kept; 0 without one.

    The file's name tells: a living sweep may delete the file before one could read it.
    """
    kept = Path("outputs", study, "unfinished").glob("*.ckpt")
    return max((int(path.stem.rpartition("-")[2]) for path in kept), default=0)


def kill_when(has_come: Callable[[], bool], *words: str) -> str:
    """Start a command, kill it when its moment has come, however long that takes; what it said."""
    with Path("said.txt").open("w") as said:
        command = subprocess.Popen(
            [sys.executable, str(PROJECT / "train.py"), *words],
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while not has_come():
            assert command.poll() is None, f"ended too early: {Path('said.txt').read_text()}"
            time.sleep(0.01)
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()
    return Path("said.txt").read_text()


@pytest.mark.slow
def test_a_sweep_killed_in_training_and_in_testing_ends_like_an_undisturbed_one(cli, teacher):
    words = ("-m", "stage=distill", "data=mnist_mini", "trainer.max_epochs=40", "kd.T=1,3,5")
    words += ("kd.alpha=0,0.5,1", "seed=0,1", "checkpoint=best")
    for study in ("killed", "undisturbed"):
        shutil.copytree("outputs/main", f"outputs/{study}")
    runs = Path("outputs/killed/distill")

    kill_when(lambda: epochs_of_group("killed") >= 5, *words, "study=killed")
    assert 5 <= epochs_of_group("killed") < 40
    said = kill_when(lambda: len(list(runs.glob("*/metrics.json"))) >= 2, *words, "study=killed")
    assert re.search(r"an earlier attempt ended after epoch \d+: continuing", said)
    assert "epoch 4/40" not in said
    assert "epoch 40/40" in said
    complete = len(list(runs.glob("*/metrics.json")))
    assert 2 <= complete < 18, "killed too late to show anything"
    resumed = cli(*words, "study=killed")
    undisturbed = cli(*words, "study=undisturbed")
    assert resumed.code == undisturbed.code == 0
    assert "an earlier attempt ended after epoch 40: continuing" in resumed.out
    assert resumed.out.count("complete already, skipped") == complete
    assert table(resumed.out) == table(undisturbed.out)
    assert not Path("outputs/killed/unfinished").exists()
    models = sorted(runs.glob("*/model.ckpt"))
    assert len(models) == 18
    for path in models:
        same = Path("outputs/undisturbed/distill", path.parent.name)
        assert path.read_bytes() == (same / path.name).read_bytes()
        mine, its = (scalars(folder, "val/acc") for folder in (path.parent, same))
        assert mine == its
        assert len(mine) == 40


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    """A curve as TensorBoard reads it."""
    return [(e.step, e.value) for e in EventAccumulator(str(run)).Reload().Scalars(tag)]


def test_a_run_that_another_process_finished_meanwhile_is_kept(cli, teacher, monkeypatch):
    """The plan was made before; the run is complete when its group has its turn."""

    cli("-m", "stage=student", *MINI, "seed=0,1", "study=other")

    def finish_one(*arguments):
        run = Path("outputs/main/student/seed=1,data=mnist_mini,trainer.max_epochs=2")
        if not run.exists():
            shutil.copytree(Path("outputs/other/student", run.name), run)
            finish_one.before = (run / "model.ckpt").stat().st_mtime_ns
        return healthy(*arguments)

    from kd.sweeps import plan

    healthy = plan.replace
    monkeypatch.setattr(plan, "replace", finish_one)
    said = cli("-m", "stage=student", *MINI, "seed=0,1")
    assert said.code == 0, said.err
    assert said.out.count("complete already, skipped") == 1
    (kept,) = Path("outputs/main/student").glob("seed=1*/model.ckpt")
    assert kept.stat().st_mtime_ns == finish_one.before


@pytest.mark.slow
def test_what_a_group_has_learned_outlives_a_lack_of_memory(cli, teacher, monkeypatch):
    words = ("-m", "stage=student", *MINI, "seed=0,1")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1)
        cli(*words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd.training.memory.available_bytes", lambda: 2**20)
        said = cli(*words)
    assert "free some and give the same command, or overwrite=true with" in said.err
    assert "an earlier attempt ended after epoch 2: continuing" in cli(*words).out


def test_a_run_that_is_busy_fails_alone(cli, teacher, monkeypatch):
    from kd.training import run_folder as folder

    def hold(directory):
        if "seed=1," in directory.name and Path("outputs/main/unfinished").exists():
            raise folder.Busy("another process is training this run")
        return healthy(directory)

    healthy = folder.hold
    monkeypatch.setattr(folder, "hold", hold)
    said = cli("-m", "stage=student", *MINI, "seed=0,1,2")
    assert said.code == 1
    assert "2 of 3 runs complete" in said.out
    assert said.out.count("another process is training this run") == 1
