"""What several tests share: words of commands, and what a run left behind."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from kd.config.schema import Config
from kd.config.validation import validate
from kd.files import PROJECT
from kd.methods.base import Distillation, weighted_loss
from kd.outputs import Outputs
from kd.sweeps.job_configs import Job
from kd.training.run_folder import LOCKS
from kd.training.unfinished import FOLDER

if TYPE_CHECKING:
    from torch import Tensor


def method_loss(
    student: Outputs, teacher: Outputs, labels: "Tensor", kd: Distillation, weights: tuple
) -> "Tensor":
    """The training loss of a student, by a method, with these weights of labels and term."""
    return weighted_loss(student.logits, labels, kd.term(student, teacher, labels), weights)


CONF = PROJECT / "conf"
DIGITS = PROJECT / "tests" / "mnist_mini"
MINI = ("data=mnist_mini", "trainer.max_epochs=2")


def composed(*words: str) -> DictConfig:
    """What Hydra makes of a command's words."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(words))


def config(*words: str) -> Config:
    """The same, checked and typed."""
    return validate(composed(*words))


def as_job(config: Config, name: str) -> Job:
    """A job of a sweep; its run's folder has this name."""
    name = f"{config.stage}/{name}"
    return Job(config, DictConfig({}), name, Path(config.output_dir, config.study, name))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes: to see that nothing was touched."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def one_line(said: str, expected: str) -> None:
    """An error's text is one line that says what is expected."""
    assert expected in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert "Traceback" not in said


def complete(study: str = "main", stage: str = "*") -> list[Path]:
    """The folders of a study's complete runs, sorted."""
    return sorted(path.parent for path in Path("outputs", study).glob(f"{stage}/*/metrics.json"))


def metrics(run: Path) -> dict[str, Any]:
    """The figures of a run."""
    return json.loads((run / "metrics.json").read_text())


def weights(run: Path) -> "dict[str, Tensor]":
    """The parameters of a run's network."""
    import torch  # not before conftest.py has said how many threads it may have

    return torch.load(run / "model.ckpt", weights_only=True)["state_dict"]


# What two equal trainings, together and alone, need not have in common.
OWN = {"study", "time/fit_s", "teacher/checkpoint", "predictions/sha256", "history/sha256"}


def runs(study: str, stage: str = "distill") -> dict[str, Path]:
    """The complete runs of a study by the name of their folder."""
    return {p.parent.name: p.parent for p in Path("outputs", study, stage).glob("*/metrics.json")}


def distance(one: Path, other: Path) -> float:
    """The largest relative difference of two runs' weights; batch norm's counts are among them."""
    mine, its = weights(one), weights(other)
    assert mine.keys() == its.keys()
    apart = {name: (mine[name] - its[name]).float().norm() for name in mine}
    return max((apart[name] / its[name].float().norm()).item() for name in mine)


def assert_equal_up_to_rounding(these: dict[str, Path], others: dict[str, Path]) -> None:
    """The runs have the weights and figures of those of the same names among the others.

    All but one at most: where the input of a ReLU is 0 up to rounding, the unit is open in one
    training and shut in the other, and from there on the two differ by more than rounding.
    """
    apart = {name: distance(run, others[name]) for name, run in these.items()}
    assert len(apart) > 1
    assert all(map(math.isfinite, apart.values()))
    *close, farthest = sorted(apart.values())
    assert farthest < 5e-3
    assert max(close) < 1e-4
    for name in apart:
        mine, its = metrics(these[name]), metrics(others[name])
        assert mine.keys() == its.keys()
        rel = 1e-3 if apart[name] < 1e-4 else 2e-2
        for key in mine.keys() - OWN:
            within = {"abs": 5e-3} if key.endswith("/acc") else {"rel": rel, "abs": 1e-5}
            number = isinstance(its[key], float)
            assert mine[key] == (pytest.approx(its[key], **within) if number else its[key]), key


def make_up_run(study: Path, stage: str, accuracy: float, seed: int = 0, **settings) -> None:
    """Write what the report reads of a run that never was.

    Args:
        study: the folder of its study.
        stage: "teacher", "student" or "distill".
        accuracy: on test and on validation.
        seed: of the run.
        settings: in which it differs from others, as ``model__dropout`` for ``model.dropout``; and
            ``images``, the fingerprint of its data split, ``labels`` of the test images,
            ``answers``, the classes that the network names, and ``curve``, accuracies by epoch.
    """
    import numpy as np

    from kd.training.run_folder import write_history, write_metrics

    images = settings.pop("images", "split")
    labels = settings.pop("labels", np.arange(20) % 10)
    answers, curve = settings.pop("answers", labels), settings.pop("curve", ())
    own = {key.replace("__", "/"): value for key, value in settings.items()}
    taught = {"teacher/checkpoint": None, "teacher/sha256": None}
    if stage == "distill":
        taught = {"teacher/checkpoint": f"teacher/{images}/model.ckpt", "teacher/sha256": "a" * 64}
        taught |= {"kd/method": "hinton", "fidelity/kl": 0.1, "fidelity/agreement": 0.9}
    words = [f"{key.replace('/', '.')}={value}" for key, value in {**own, "seed": seed}.items()]
    folder = study / stage / ",".join([*words, f"of={images}"])
    folder.mkdir(parents=True)
    logits = np.eye(10, dtype=np.float32)[answers]
    arrays = {"logits": logits, "labels": labels, "indices": np.arange(len(labels))}
    np.savez_compressed(folder / "predictions.npz", **arrays)
    figures = {"test/loss": 0.1, "test/ece": 0.01, "time/fit_s": 1.0}
    tags = ("train/loss", "val/loss", "train/acc", "val/acc")
    if curve:
        rows = [dict.fromkeys(tags, value) for value in curve]
        figures["history/sha256"] = write_history(folder, rows)
    accuracies = {"val/acc": accuracy, "test/acc": accuracy}
    first = {"stage": stage, "seed": seed, "epochs": 1, "data/fingerprint": images}
    write_metrics(folder, first | taught | accuracies | figures | own)


def make_up_sweep(study: Path, temperatures: int, alphas: int, seeds: int, images: int) -> None:
    """Write what the report reads of a sweep that never was, of 20 epochs, with so many images.

    As of real networks, the errors of all are mostly on the same tenth of the images.
    """
    import numpy as np

    random = np.random.default_rng(0)
    labels = random.integers(10, size=images)
    likely = random.integers(10, size=images)  # what an image is taken for
    hardness = np.where(random.random(images) < 0.1, random.random(images), 0.002)

    def make(stage: str, seed: int, errors: float, **settings) -> None:
        wrong = random.random(images) < errors * hardness
        answers = np.where(wrong, likely, labels)
        accuracy = float((answers == labels).mean())
        curve = [round(accuracy - 0.1 / n + random.random() / 1000, 6) for n in range(1, 21)]
        settings |= {"labels": labels, "answers": answers, "curve": curve}
        make_up_run(study, stage, accuracy, seed, **settings)

    make("teacher", 0, 0.2)
    for seed in range(seeds):
        make("student", seed, 0.7)
        for T in range(1, temperatures + 1):
            for alpha in range(alphas):
                own = {"kd__T": float(T), "kd__alpha": alpha / alphas}
                make("distill", seed, 0.6 + T / 100, **own)


@contextmanager
def interrupting(epoch: int = 1) -> Generator[None]:
    """Have Ctrl-C come when a training has recorded this epoch."""
    from kd.training.callbacks import Record

    def press(self, trainer, pl_module):
        healthy(self, trainer, pl_module)
        if len(pl_module.history) == epoch:
            raise KeyboardInterrupt

    healthy = Record.on_train_epoch_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "on_train_epoch_end", press)
        yield


def one_group(configs: list[Config]) -> tuple[list[str], list[Config]]:
    """The students of the one group that these configurations make, and what each trains by."""
    from kd.sweeps.grouping import plan_groups
    from kd.sweeps.students import config_of

    jobs = [as_job(config, str(number)) for number, config in enumerate(configs)]
    groups, lonely = plan_groups(jobs, jobs, {})
    assert not lonely
    (group,) = groups
    students = list(group.planned.students)
    return students, [config_of(student, group.lead.config) for student in students]


WAIT = 300.0  # seconds, beside busy neighbours


def command(
    folder: Path, *words: str, env: Mapping[str, str] | None = None, **given: Any
) -> subprocess.Popen:
    """Give a command in a process of its own, with its outputs in this folder."""
    line = [sys.executable, str(PROJECT / "train.py"), *words, f"output_dir={folder}"]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | (env or {})
    given |= {"env": alone, "cwd": folder.parent, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, **given)


def until(found: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT
    while not found():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.01)


def trainers(folder: Path, of: str = "distill") -> set[int]:
    """The processes that hold the lock of a run, or of a pack."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link).startswith(f"{folder}/main/{LOCKS}/{of}/"):
                found.add(int(link.parts[2]))
    return found


def epochs(folder: Path) -> list[int]:
    """The epochs after which groups in training were saved."""
    found = (folder / "main" / FOLDER).glob("[!.r]*-*.ckpt")
    return [int(path.stem.rpartition("-")[2]) for path in found]
