"""Sweeps whose groups are tasks of Joblib, Ray and Submitit: as by themselves, kills included."""

import csv
import fcntl
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import DIGITS, MINI, command, complete, epochs, one_line, trainers, until

from kd.sweeps.engines import joblib, ray, slurm
from kd.training.unfinished import FOLDER

EPOCHS = 60
# Two groups, for the widths are too far apart to train together, and one that trains alone.
SWEEP = ("-m", "stage=distill", "data=mnist_mini", f"trainer.max_epochs={EPOCHS}", "kd.T=1,4")
SWEEP += ("model.hidden=16,200,[8,8]", "trainer.stack=always", "logger=[]")
ENGINES = {
    "joblib": ("hydra.launcher.backend=joblib",),
    "ray": ("hydra.launcher.backend=ray",),
    "slurm": (
        "hydra.launcher.backend=slurm",
        "hydra.launcher.slurm.executor=local",
        "hydra.launcher.slurm.groups=2",
    ),
}
# What need not be the same.
OWN = {"time/fit_s", "teacher/checkpoint", "git/commit", "git/dirty"}

engines = pytest.mark.parametrize("engine", ENGINES)
pytestmark = pytest.mark.usefixtures("shared")


def begin(folder: Path, *words: str, **given: Any) -> subprocess.Popen:
    """Give the sweep in a process of its own."""
    return command(folder, *SWEEP, *words, **given)


def table(folder: Path) -> dict[str, dict[str, str]]:
    """What the study's table says of the distilled runs, digests of predictions among it."""
    with (folder / "main" / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "distill"]
    return {row["run"]: {k: v for k, v in row.items() if k not in OWN} for row in rows}


@pytest.fixture
def place(_trained, tmp_path, monkeypatch) -> Path:
    """A folder for outputs with a teacher in it."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(_trained, tmp_path / "outputs"))


@pytest.fixture(scope="module")
def local(_trained, tmp_path_factory) -> dict[str, dict[str, str]]:
    """The table of the same sweep, trained by the command itself."""
    folder = tmp_path_factory.mktemp("local") / "outputs"
    shutil.copytree(_trained, folder)
    command = begin(folder, "hydra.launcher.cores=1")
    assert "6 of 6 runs complete" in command.communicate()[0]
    return table(folder)


@pytest.mark.slow
@engines
def test_a_worker_is_killed_in_mid_group(engine, place, local):
    command = begin(place, *ENGINES[engine])
    until(lambda: 3 <= max(epochs(place), default=0) < EPOCHS - 5)
    passed = max(epochs(place))
    (victim, *_) = trainers(place) - {command.pid}
    os.kill(victim, signal.SIGKILL)
    again = set()
    until(lambda: again.update(epochs(place)) or command.poll() is not None)
    said = command.communicate()[0]
    assert command.returncode == 0, said
    assert "6 of 6 runs complete" in said
    assert max(again) > passed
    assert table(place) == local
    assert not (place / "main" / FOLDER).exists()
    assert not (place / "main" / slurm.TASKS).exists()


@pytest.mark.slow
@engines
def test_the_command_is_killed_and_given_again(engine, place, local):
    command = begin(place, *ENGINES[engine])
    until(lambda: 3 <= max(epochs(place), default=0) < EPOCHS - 5)
    command.kill()
    command.wait()
    until(lambda: not trainers(place))  # Submitit's tasks outlive it, as those on Slurm do
    before = {run: run.stat().st_mtime_ns for run in place.glob("main/distill/*/metrics.json")}
    assert len(before) < 6 or engine == "slurm"
    if engine != "slurm":
        assert max(epochs(place)) >= 3
    command = begin(place, *ENGINES[engine])
    said = command.communicate()[0]
    assert command.returncode == 0, said
    assert table(place) == local
    assert said.count("complete already, skipped") == len(before)
    assert all(run.stat().st_mtime_ns == at for run, at in before.items()), "trained twice"


@pytest.mark.slow
def test_a_worker_that_is_lost_too_often_is_one_line_and_the_command_goes_on_there(place, local):
    command = begin(place, *ENGINES["joblib"], "hydra.launcher.retries=0")
    until(lambda: 3 <= max(epochs(place), default=0) < EPOCHS - 5)
    for pid in trainers(place) - {command.pid}:
        os.kill(pid, signal.SIGKILL)
    said = command.communicate()[0]
    assert command.returncode == 1
    assert "the worker was lost, once begun" in said
    assert max(epochs(place)) >= 3
    assert begin(place, *ENGINES["joblib"]).wait() == 0
    assert table(place) == local


@pytest.mark.slow
def test_a_node_is_lost_and_another_added(place, local):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        node = cluster.add_node(num_cpus=2)
        address = f"hydra.launcher.ray.address={cluster.address}"
        command = begin(place, *ENGINES["ray"], address)
        until(lambda: 3 <= max(epochs(place), default=0) < EPOCHS - 5)
        cluster.remove_node(node, allow_graceful=False)
        until(lambda: not trainers(place))
        assert command.poll() is None
        cluster.add_node(num_cpus=2)
        said = command.communicate()[0]
    finally:
        cluster.shutdown()
    assert command.returncode == 0, said
    assert table(place) == local


@pytest.mark.slow
def test_a_full_disk_where_tasks_write(place, local):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # a group's state is larger
    try:
        command = begin(place, *ENGINES["joblib"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = command.communicate()[0]
    assert command.returncode == 1
    assert said.count("FAILED: no room left on the device") == 6
    assert not list(place.glob("main/distill/*/metrics.json"))
    assert begin(place, *ENGINES["joblib"]).wait() == 0
    assert table(place) == local


def mapped_by_all(pids: set[int]) -> set[str]:
    """The shared files that all these processes have mapped."""
    found = []
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            found.append({line.split()[-1] for line in lines if "/shared/kd-" in line})
    return set.intersection(*found) if found else set()


@pytest.mark.slow
def test_the_tasks_of_a_machine_share_their_images(place, local, shared):
    command = begin(place, *ENGINES["joblib"])
    met = set()

    def share() -> bool:
        pids = trainers(place) - {command.pid}
        met.update(mapped_by_all(pids) if len(pids) == 2 else ())
        return len(met) == 3 or command.poll() is not None

    until(share)
    said = command.communicate()[0]
    assert command.returncode == 0, said
    assert table(place) == local
    assert met == {*map(str, shared.rglob("*.safetensors"))}
    assert len(met) == 3  # images, split, teacher's outputs


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "slurm"])
def test_tasks_that_cannot_see_the_data(engine, place, local):
    """Its folder has a name that means something to the command alone: that of an open file."""
    opened = os.open(DIGITS, os.O_RDONLY)
    number = fcntl.fcntl(opened, fcntl.F_DUPFD, 900)
    try:
        words = (*ENGINES[engine], f"data.dir=/proc/self/fd/{number}")
        command = begin(place, *words, pass_fds=(number,))
    finally:
        os.close(opened)
        os.close(number)
    met = set()
    until(lambda: met.update(trainers(place) - {command.pid}) or met or command.poll() is not None)
    assert Path(f"/proc/{command.pid}/fd/{number}").exists()
    assert not any(Path(f"/proc/{pid}/fd/{number}").exists() for pid in met)
    said = command.communicate()[0]
    assert command.returncode == 0, said
    assert met
    elsewhere = [{**row, "data/dir": ""} for row in table(place).values()]
    assert all({**row, "data/dir": ""} in elsewhere for row in local.values())
    assert not (place / "main" / slurm.TASKS).exists()


@pytest.mark.slow
def test_what_fails_elsewhere_is_told_here(cli, teacher):
    said = cli("-m", "stage=student", *MINI, "optim.lr=0.01,1e30", *ENGINES["joblib"], "logger=[]")
    assert said.code == 1
    one_line(said.err, "1 of 2 runs failed: ")
    assert len(complete(stage="student")) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["backend=dask"], "hydra.launcher.backend=dask: must be local or joblib or ray or slurm"),
        (["cores=0"], "hydra.launcher.cores=0: must be null or a whole number from 1"),
        (["memory_gb=-1"], "hydra.launcher.memory_gb=-1: must be null or a number above 0"),
        (["gpus=2"], "hydra.launcher.gpus=2: must be a number from 0 to 1"),
        (["retries=x"], "hydra.launcher.retries=x: must be a whole number from 0 to 1000"),
        (["slurm.minutes=0"], "hydra.launcher.slurm.minutes=0: must be a whole number from 1"),
        (["slurm.partition=' '"], "hydra.launcher.slurm.partition= : must be null or the name"),
        (["core=1"], "hydra.launcher.core: no such key"),
        (["cores=4096"], "hydra.launcher.cores=4096: this machine has"),
        (["backend=joblib", "cores=4096"], "hydra.launcher.cores=4096: this machine has"),
        (["backend=joblib", "gpus=1"], "Joblib gives tasks no GPU of their own"),
        (["backend=joblib", "memory_gb=1e6"], "hydra.launcher.memory_gb=1e+06: "),
        (["backend=slurm", "gpus=0.5", "slurm.executor=local"], "Slurm gives whole GPUs"),
        (["backend=ray", "ray.address=127.0.0.1:1"], "hydra.launcher.ray.address=127.0.0.1:1: no"),
        (["backend=ray", "ray.address=here:there"], "hydra.launcher.ray.address=here:there: no"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(cli, words, expected):
    given = [f"hydra.launcher.{word}" for word in words]
    said = cli("-m", "stage=student", "data=mnist_mini", "seed=0,1", *given)
    assert said.code == 1
    one_line(said.err, expected)
    assert not Path("outputs").exists()


def test_a_gpu_that_no_task_has(cli):
    words = ("-m", "stage=student", "data=mnist_mini", "trainer=gpu", "seed=0,1")
    one_line(cli(*words, *ENGINES["joblib"]).err, "give hydra.launcher.gpus=1")


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [(joblib, "joblib", "joblib"), (ray, "ray", "ray"), (slurm, "submitit", "slurm")],
)
def test_an_engine_that_is_not_installed(cli, monkeypatch, module, package, extra):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    said = cli("-m", "stage=student", "data=mnist_mini", "seed=0,1", *ENGINES[extra])
    needs = f"needs the package {package}; pip install 'kd[{extra}]'"
    one_line(said.err, f"hydra.launcher.backend={extra}: {needs}")


@pytest.fixture
def sbatch(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder for programs of Slurm's, alone on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}")
    return folder


def test_no_slurm_here(cli, sbatch):
    said = cli("-m", "stage=student", "data=mnist_mini", "seed=0,1", "hydra.launcher.backend=slurm")
    one_line(said.err, "hydra.launcher.backend=slurm: no Slurm on this machine (sbatch, srun)")


def test_a_slurm_that_refuses(cli, sbatch):
    refusing = "echo 'sbatch: error: invalid partition' >&2\nexit 1\n"
    for name, does in {"sbatch": refusing, "srun": "", "sacct": ""}.items():
        program = sbatch / name
        program.write_text(f"#!/bin/sh\n{does}")
        program.chmod(0o755)
    words = ("hydra.launcher.backend=slurm", "hydra.launcher.slurm.partition=none")
    said = cli("-m", "stage=student", *MINI, "seed=0,1", *words)
    one_line(said.err, "Slurm refuses the tasks: sbatch: error: invalid partition")
    assert not complete()
    said = cli("-m", "stage=student", *MINI, "seed=0,1")
    assert said.code == 0, said.err


@pytest.mark.slow
def test_more_cores_than_a_cluster_has(cli):
    words = (*ENGINES["ray"], "hydra.launcher.cores=4096")
    said = cli("-m", "stage=student", "data=mnist_mini", "seed=0,1", *words)
    one_line(said.err, "hydra.launcher.cores=4096: the cluster's largest node has")


@pytest.mark.slow
def test_from_python(cli):
    import kd

    words = ("stage=student", *MINI, "seed=0,1", "logger=[]")
    found = kd.sweep(*words, "hydra.launcher.backend=joblib", "hydra.launcher.at_once=1")
    assert len(found) == 2
    with pytest.raises(kd.errors.UserError, match=r"hydra\.launcher\.cores=0"):
        kd.sweep(*words, "hydra.launcher.cores=0")
