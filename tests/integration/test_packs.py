"""Large sweeps: planned from their ranges, packed, and read as if each run had a folder."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import (
    MINI,
    command,
    complete,
    epochs,
    metrics,
    one_line,
    trainers,
    until,
    weights,
)  # fmt: skip

from kd.training import packs
from kd.training.unfinished import FOLDER

SWEEP = ("-m", "stage=distill", *MINI, "kd.T=1,4", "kd.alpha=0,0.5,1", "seed=0,1")
PACKED = ("store.compact_from=2",)
pytestmark = pytest.mark.usefixtures("shared")
OWN = {"time/fit_s", "history/sha256", "predictions/sha256", "git/commit", "git/dirty"}
LAST = "distill/T=4.0,alpha=0.5,seed=1,data=mnist_mini,trainer.max_epochs=2"


def rows(study: str = "main") -> pd.DataFrame:
    """A study's table by run, but for what differs between any two trainings of a run."""
    frame = pd.read_csv(f"outputs/{study}/results.csv").drop(columns=[*OWN, "study"])
    frame["teacher/checkpoint"] = frame["teacher/checkpoint"].notna()
    return frame.set_index("run").sort_index(axis=0).sort_index(axis=1)


def packed(study: str = "main") -> list[packs.Pack]:
    return packs.packs_of(Path("outputs", study).absolute())


@pytest.mark.slow
def test_a_packed_sweep_is_that_with_a_folder_each(cli, teacher):
    cli(*SWEEP, *PACKED)
    (pack,) = packed()
    assert len(pack.names) == 12
    assert {path.name for path in pack.folder.iterdir()} == {
        packs.RUNS, packs.HISTORY, packs.PREDICTIONS, packs.WEIGHTS, packs.NOTE
    }  # fmt: skip
    shutil.copytree("outputs/main/teacher", "outputs/each/teacher")
    cli(*SWEEP, "study=each")
    pd.testing.assert_frame_equal(rows(), rows("each"), check_dtype=False, rtol=0, atol=0)

    for name in pack.names:
        there = Path("outputs/each", name)
        assert not cli("stage=unpack", f"store.run={name}").code
        here = Path("outputs/main", name)
        assert (here / "history.csv").read_bytes() == (there / "history.csv").read_bytes()
        mine, its = weights(here), weights(there)
        assert all(torch.equal(mine[key], its[key]) for key in its)
        assert {p.name for p in here.iterdir() if "tfevents" not in p.name} == {
            p.name for p in there.iterdir() if "tfevents" not in p.name
        }
        found, expected = metrics(here), metrics(there)
        assert found.keys() == expected.keys()
        assert found["history/sha256"] == expected["history/sha256"]
        assert found["predictions/sha256"] == expected["predictions/sha256"]


def test_results_parquet_is_results_csv(cli, teacher):
    cli(*SWEEP, *PACKED)
    tables = (
        pd.read_parquet("outputs/main/results.parquet"),
        pd.read_csv("outputs/main/results.csv"),
    )
    assert list(tables[0].columns) == list(tables[1].columns)
    assert len(tables[0]) == len(tables[1]) == 13  # and the teacher
    for key in ("run", "test/acc", "test/loss", "seed"):
        assert list(tables[0][key]) == list(tables[1][key])


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(cli, teacher):
    first = cli(*SWEEP, *PACKED, "store.pack=4")
    assert "12 runs in 3 packs" in first.out
    times = {pack.folder: (pack.folder / packs.NOTE).stat().st_mtime_ns for pack in packed()}
    again = cli(*SWEEP, *PACKED, "store.pack=4")
    assert again.out.count("complete already") == 3
    assert {p.folder: (p.folder / packs.NOTE).stat().st_mtime_ns for p in packed()} == times
    assert "12 of 12 runs complete" in again.out


@pytest.mark.slow
def test_more_seeds_train_what_is_missing_alone(cli, teacher):
    cli(*SWEEP, *PACKED)
    before = rows()
    cli(*SWEEP[:-1], "seed=0,1,2", *PACKED)
    assert sorted(len(pack.names) for pack in packed()) == [6, 12]
    after = rows()
    assert len(after) == 19
    pd.testing.assert_frame_equal(after.loc[before.index], before)


@pytest.mark.slow
def test_a_pack_keeps_as_many_weights_as_it_is_told(cli, teacher):
    cli(*SWEEP, *PACKED, "store.weights=none", "logger=[]")
    (pack,) = packed()
    assert not (pack.folder / packs.WEIGHTS).exists()
    one_line(cli("stage=unpack").err, "its weights have not been kept")
    cli(*SWEEP, *PACKED, "store.weights=best", "overwrite=true")
    (pack,) = packed()
    kept = [name for name in pack.names if pack.weights(name) is not None]
    assert len(kept) == 1
    frame = packs.frame_of(pack.study, ["run", "val/acc"]).set_index("run")
    assert frame["val/acc"][kept[0]] == frame["val/acc"].max()
    assert complete(stage="distill") == [Path("outputs/main", kept[0])]  # for TensorBoard


@pytest.mark.slow
def test_logits_are_kept_on_demand(cli, teacher):
    cli(*SWEEP, *PACKED, "store.logits=true")
    (pack,) = packed()
    table = pd.read_parquet(pack.folder / packs.PREDICTIONS)
    assert len(table["logits"][0]) == 12 * 10 * 2
    assert pack.answers.classes.shape == (200, 12)


@pytest.mark.slow
def test_a_run_that_diverges_is_told_and_not_trained_again(cli, teacher):
    words = (*SWEEP, *PACKED, "optim.lr=1e-2,1e30")
    said = cli(*words)
    assert said.code == 1
    assert "training diverged" in said.err
    assert said.err.count("\n") == 1
    (pack,) = packed()
    assert len(pack.names) + len(pack.note["failed"]) == 24
    again = cli(*words)
    assert again.code == 1
    assert "complete already" in again.out
    alone = ("-m", "stage=student", *MINI, *PACKED, "optim.lr=1e30", "seed=0,1", "study=none")
    for said in (cli(*alone), cli(*alone)):  # a block of nothing else
        one_line(said.err, "2 of 2 runs failed: training diverged")
    assert "complete already" in said.out
    (pack,) = packed("none")
    assert len(pack.note["failed"]) == 2


@pytest.mark.slow
def test_a_packed_run_teaches_and_is_exported(cli, teacher):
    cli(*SWEEP, *PACKED)
    shutil.rmtree("outputs/main/distill")  # those that are unpacked for TensorBoard
    place = f'teacher.checkpoint="outputs/main/{LAST}"'
    taught = cli("stage=distill", *MINI, "study=next", place)
    assert not taught.code, taught.err
    assert (Path("outputs/main") / LAST / "model.ckpt").exists()
    shutil.rmtree("outputs/main/distill")
    shipped = cli(
        "stage=export", f"export.run={LAST}", "export.passes=3", "export.tolerance=1",
        "export.calibration=50",
    )  # fmt: skip
    assert not shipped.code, shipped.err


@pytest.mark.slow
def test_an_ordinary_command_knows_packed_runs(cli, teacher):
    cli(*SWEEP, *PACKED)
    shutil.rmtree("outputs/main/distill")
    assert "skipped: complete already" in cli("stage=distill", *MINI, "kd.T=4", "seed=1").out
    again = cli(*SWEEP)
    assert again.out.count("complete already, skipped") == 12


@pytest.mark.slow
def test_a_teacher_that_was_trained_again_is_told(cli, teacher):
    cli(*SWEEP, *PACKED)
    cli("stage=teacher", *MINI, "overwrite=true", "optim.lr=3e-3", "study=other")
    (other,) = complete("other", "teacher")
    shutil.copy(other / "model.ckpt", teacher / "model.ckpt")
    one_line(cli(*SWEEP, *PACKED).err, "the teacher (it was trained again since)")


@pytest.mark.slow
def test_what_another_pack_had_is_trained_where_that_is_gone(cli, teacher):
    alone = ("-m", "stage=student", *MINI, *PACKED, "store.weights=none")
    cli(*alone, "seed=0,1,2")
    (first,) = packed()
    cli(*alone, "seed=range(0,6)")
    assert sorted(len(pack.names) for pack in packed()) == [3, 3]
    shutil.rmtree(first.folder)
    again = cli(*alone, "seed=range(0,6)")
    assert "6 of 6 runs complete" in again.out
    assert sorted(len(pack.names) for pack in packed()) == [3, 3]
    assert len(rows()) == 7


@pytest.mark.slow
def test_an_overwrite_that_was_stopped_goes_on(cli, place, monkeypatch):
    monkeypatch.chdir(place.parent)
    words = ("-m", "stage=student", "data=mnist_mini", "trainer.max_epochs=60", "seed=range(0,4)")
    words += (*PACKED, "store.weights=none")
    cli(*words)
    (old,) = packed()
    names = set(old.names)
    stopped = command(place, *words, "store.pack=2", "overwrite=true")
    until(lambda: max(epochs(place), default=0) > 3)
    stopped.send_signal(signal.SIGKILL)
    stopped.communicate()
    assert len([name for pack in packed() for name in set(pack.names) - pack.dropped]) < 4
    again = cli(*words, "store.pack=2")
    assert "4 of 4 runs complete" in again.out
    found = [name for pack in packed() for name in set(pack.names) - pack.dropped]
    assert sorted(found) == sorted(names)
    assert len(next(pack for pack in packed() if pack.folder == old.folder).dropped) == 2


@pytest.mark.slow
def test_a_teacher_that_one_run_alone_has_met_is_told(cli, teacher):
    cli(*SWEEP, *PACKED)
    cli("stage=teacher", *MINI, "overwrite=true", "optim.lr=3e-3", "study=other")
    (other,) = complete("other", "teacher")
    shutil.copy(other / "model.ckpt", teacher / "model.ckpt")
    first = packed()[0].names[0]
    T, alpha, seed = (word.partition("=")[2] for word in first.split("/")[1].split(",")[:3])
    cli("stage=distill", *MINI, f"kd.T={T}", f"kd.alpha={alpha}", f"seed={seed}", "overwrite=true")
    one_line(cli(*SWEEP, *PACKED).err, "the teacher (it was trained again since)")


@pytest.mark.slow
def test_a_column_of_two_types_is_text(cli, teacher):
    cli("-m", "stage=student", *MINI, "seed=7,8")
    for run, note in zip(complete(stage="student"), ("x", 1), strict=True):
        content = metrics(run) | {"note": note}
        (run / "metrics.json").write_text(json.dumps(content))
    cli("-m", "stage=student", *MINI, "seed=0,1", *PACKED)
    assert set(pd.read_parquet("outputs/main/results.parquet")["note"].dropna()) == {"x", "1"}


def test_mistakes_get_one_line(cli, teacher):
    one_line(cli("stage=unpack", "study=none").err, "has no packs")
    one_line(cli(*SWEEP, "store.compact_from=abc").err, "store.compact_from=abc: must be")
    one_line(cli(*SWEEP, *PACKED, "data.dir=a,b").err, "two jobs of this sweep have this folder")
    one_line(cli("-m", "stage=unpack", "seed=0,1").err, "unpacks one run at a time")
    one_line(cli(*SWEEP, *PACKED, "kd.alpha=0,2").err, "kd.alpha=2: must be")
    one_line(cli(*SWEEP, *PACKED, "optim.momentum=0,0.9").err, "is of optim=sgd")
    assert not packed()
    cli(*SWEEP, *PACKED)
    one_line(cli("stage=unpack", "store.run=distill/T=9").err, "no pack of outputs/main has it")
    (pack,) = packed()
    table = pack.folder / packs.RUNS
    table.write_bytes(table.read_bytes()[:-100])
    one_line(cli(*SWEEP, *PACKED).err, f"{packs.RUNS}: cannot be read")


def test_without_a_teacher_nothing_is_trained(cli):
    one_line(cli(*SWEEP, *PACKED).err, "no complete teacher of seed 0")
    assert not Path("outputs/main").exists()


LARGE = ("-m", "stage=distill", "data=mnist_mini", "trainer.max_epochs=40", "kd.T=1,2,3,4")
LARGE += ("seed=0,1,2", *PACKED, "store.pack=6", "logger=[]")


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "main" / "results.csv").open() as file:
        found = {row["run"]: row for row in csv.DictReader(file)}
    return {
        run: {k: v for k, v in row.items() if k not in OWN | {"teacher/checkpoint"}}
        for run, row in found.items()
        if row["stage"] == "distill"
    }


@pytest.fixture(scope="module")
def whole(_trained, tmp_path_factory) -> dict[str, dict[str, str]]:
    """The table of a sweep of two packs that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "outputs"
    shutil.copytree(_trained, folder)
    given = command(folder, *LARGE, "hydra.launcher.cores=1")
    assert "12 of 12 runs complete" in given.communicate()[0]
    return table(folder)


@pytest.fixture
def place(_trained, tmp_path) -> Path:
    """A folder for outputs with a teacher in it."""
    return Path(shutil.copytree(_trained, tmp_path / "outputs"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "joblib", "ray"])
def test_the_command_is_killed_in_mid_pack_and_given_again(engine, place, whole):
    where = ("hydra.launcher.cores=1", f"hydra.launcher.backend={engine}")
    given = command(place, *LARGE, *where)
    until(lambda: max(epochs(place), default=0) > 3)
    given.send_signal(signal.SIGKILL)
    given.communicate()
    before = max(epochs(place), default=0)
    given = command(place, *LARGE, *where)
    assert "12 of 12 runs complete" in given.communicate()[0]
    assert before > 3
    assert table(place) == whole
    assert not (place / "main" / FOLDER).exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["joblib", "ray"])
def test_a_worker_is_killed_in_mid_pack(engine, place, whole):
    given = command(place, *LARGE, "hydra.launcher.cores=1", f"hydra.launcher.backend={engine}")
    until(lambda: max(epochs(place), default=0) > 3)
    (victim, *_) = trainers(place, packs.FOLDER) - {given.pid}
    os.kill(victim, signal.SIGKILL)
    said = given.communicate()[0]
    assert "12 of 12 runs complete" in said
    assert table(place) == whole


def test_what_a_note_says_is_json(cli, teacher):
    cli(*SWEEP, *PACKED)
    (pack,) = packed()
    note = json.loads((pack.folder / packs.NOTE).read_text())
    assert note["config"]["stage"] == "distill"
    assert note["hydra"]["launcher"]["backend"] == "local"
