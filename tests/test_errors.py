"""Wrong commands: one line that helps, status 1, no traceback, and all that was there intact."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import MINI, tree

from kd.config import PROJECT

DISTILL = ("stage=distill", *MINI)

# (name, what is wrong, what the one line must say)
TYPOS = [
    ("unknown stage", ["stage=train"], "stage=train: no such choice; choose from distill"),
    (
        "unknown method",
        [*DISTILL, "kd=hintom"],
        "kd=hintom: no such choice; choose from at, cc, cosine, dist, dkd, dtkd, function",
    ),
    ("unknown model", [*DISTILL, "model=vgg"], "model=vgg: no such choice; choose from cnn, mlp"),
    ("unknown data", ["data=cifar"], "data=cifar: no such choice"),
    ("unknown experiment", ["+experiment=tlak"], "experiment=tlak: no such choice"),
    ("unknown trainer", ["trainer=tpu"], "trainer=tpu: no such choice; choose from auto, cpu, gpu"),
    ("experiment without plus", ["experiment=talk"], "with a plus, as in +experiment"),
    ("mistyped key", [*DISTILL, "kd.TT=3"], "kd.TT: no such key; did you mean kd.T?"),
    ("mistyped group", ["stag=teacher"], "stag: no such key; did you mean stage?"),
    (
        "key of another model",
        ["stage=student", "model.channels=[4]"],
        "model.channels: no such key",
    ),
    ("added key", [*DISTILL, "+kd.beta=2"], "kd.beta: no such key"),
    ("forced key", [*DISTILL, "++nothing=2"], "nothing: no such key"),
    ("removed key", [*DISTILL, "~kd.alpha"], "kd.alpha: missing"),
    ("no value", ["stage"], "stage: cannot be read as KEY=VALUE"),
    ("open bracket", [*DISTILL, "kd.T=[1"], "cannot be read"),
    ("sweep without -m", [*DISTILL, "kd.T=1,2"], "add -m"),
    ("a group as a number", ["data=3"], "data=mnist"),
    ("zero temperature", [*DISTILL, "kd.T=0"], "kd.T=0: must be a number above 0"),
    ("infinite temperature", [*DISTILL, "kd.T=inf"], "kd.T=inf: must be a number above 0"),
    ("word for a number", [*DISTILL, "kd.T=warm"], "kd.T=warm: must be a number above 0"),
    ("alpha above 1", [*DISTILL, "kd.alpha=1.5"], "kd.alpha=1.5: must be a number from 0 to 1"),
    ("negative batch", ["data.batch_size=-1"], "data.batch_size=-1: must be a whole number from 1"),
    ("negative seed", ["seed=-1"], "seed=-1: must be a whole number"),
    ("half an epoch", ["trainer.max_epochs=0.5"], "trainer.max_epochs=0.5: must be a whole number"),
    ("dropout of all", ["model.dropout=1"], "model.dropout=1: must be a number from 0 to below 1"),
    ("unknown split", ["data.split=thirds"], "data.split=thirds: must be official or pooled"),
    ("unknown epoch", ["checkpoint=first"], "checkpoint=first: must be last or best"),
    ("path as a study", ["study=../x"], "study=../x: must be a name"),
    ("wrong value in a sweep", ["-m", *DISTILL, "kd.T=1,0"], "kd.T=0: must be a number above 0"),
    ("wrong group in a sweep", ["-m", *DISTILL, "kd=hinton,dkb"], "kd=dkb: no such choice"),
]


@pytest.mark.parametrize(("words", "expected"), [t[1:] for t in TYPOS], ids=[t[0] for t in TYPOS])
def test_a_wrong_setting(cli, words, expected):
    said = cli(*words)
    assert said.code == 1
    assert said.out == ""
    one_line(said.err, expected)
    assert not list(Path().rglob("*.log")), "nothing was started"


def one_line(said: str, expected: str) -> None:
    assert expected in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert "Traceback" not in said


def no_teacher(teacher: Path) -> list[str]:
    return ["study=empty"]


def missing_checkpoint(teacher: Path) -> list[str]:
    return ["teacher.checkpoint=nowhere/model.ckpt"]


def truncated_checkpoint(teacher: Path) -> list[str]:
    path = teacher / "model.ckpt"
    path.write_bytes(path.read_bytes()[:5000])
    return []


def foreign_checkpoint(teacher: Path) -> list[str]:
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, "other.ckpt")
    return ["teacher.checkpoint=other.ckpt"]


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("code_ran"),))


def malicious_checkpoint(teacher: Path) -> list[str]:
    torch.save({"format": 1, "state_dict": Evil()}, "evil.ckpt")
    return ["teacher.checkpoint=evil.ckpt"]


def teacher_of_another_architecture(teacher: Path) -> list[str]:
    content = torch.load(teacher / "model.ckpt", weights_only=True)
    content["model"]["hidden"] = 64
    torch.save(content, "wide.ckpt")
    return ["teacher.checkpoint=wide.ckpt"]


def teacher_of_another_split(teacher: Path) -> list[str]:
    return ["data.seed=1"]


def teacher_of_pooled_images(teacher: Path) -> list[str]:
    return ["data.split=pooled"]


def missing_data(teacher: Path) -> list[str]:
    return ["data.dir=nowhere"]


def damaged_data(teacher: Path) -> list[str]:
    raw = Path(shutil.copytree(PROJECT / "tests/mnist_mini", "damaged")) / "MNIST" / "raw"
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-50_000])
    return ["data.dir=damaged"]


def incomplete_data_folder(teacher: Path) -> list[str]:
    Path("mine").mkdir()
    return ["data.dir=fresh", "data.source=verified", "data.files=mine"]


def file_for_a_folder(teacher: Path) -> list[str]:
    Path("taken").write_text("a file")
    return ["output_dir=taken"]


def too_large_validation(teacher: Path) -> list[str]:
    return ["data.val_size=100000"]


def gpu_without_one(teacher: Path) -> list[str]:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    return ["trainer.accelerator=gpu"]


def damaged_metrics(teacher: Path) -> list[str]:
    (teacher / "metrics.json").write_text("{")
    return []


CIRCUMSTANCES = [
    (no_teacher, f"first run: python train.py stage=teacher {' '.join(MINI)} study=empty"),
    (missing_checkpoint, "nowhere/model.ckpt: no such checkpoint"),
    (truncated_checkpoint, "model.ckpt: damaged"),
    (foreign_checkpoint, "other.ckpt: not a checkpoint of this project"),
    (malicious_checkpoint, "not safe to load"),
    (teacher_of_another_architecture, "do not fit the architecture"),
    (teacher_of_another_split, "another data split"),
    (teacher_of_pooled_images, "another data split"),
    (missing_data, "data.dir=nowhere: MNIST cannot be read"),
    (damaged_data, "data.dir=damaged: MNIST cannot be read"),
    (incomplete_data_folder, "data.files=mine: holds neither train-images-idx3-ubyte nor"),
    (file_for_a_folder, "taken"),
    (too_large_validation, "data.val_size=100000: cannot be taken from 1000 images"),
    (gpu_without_one, "no GPU on this machine"),
    (damaged_metrics, "metrics.json: cannot be read"),
]


@pytest.mark.parametrize(
    ("arrange", "expected"), CIRCUMSTANCES, ids=[c[0].__name__ for c in CIRCUMSTANCES]
)
def test_circumstances(cli, teacher, arrange, expected):
    words = arrange(teacher)
    before = tree(Path())
    said = cli(*DISTILL, *words)
    assert said.code == 1
    one_line(said.err, expected)
    after = tree(Path())
    assert {name: after.get(name) for name in before} == before
    new = set(after) - set(before)
    assert all(name.endswith(("train.log", ".mnist.lock")) for name in new), new
    assert not Path("code_ran").exists()


def test_a_failed_command_can_simply_be_repeated(cli, teacher):
    """What a failure leaves (a log) does not stand in the way of the next try."""
    hidden = teacher.rename(teacher.parent / "elsewhere")
    assert cli(*DISTILL).code == 1
    hidden.rename(teacher)
    assert cli(*DISTILL).code == 0


def test_a_read_only_output_directory(tmp_path):
    """In a process of its own; skipped for root, whom permissions do not stop."""
    outputs = tmp_path / "outputs"
    outputs.mkdir(mode=0o555)
    try:
        (outputs / "probe").touch()
    except PermissionError:
        pass
    else:
        pytest.skip("this user may write anywhere")
    done = subprocess.run(
        [sys.executable, str(PROJECT / "train.py"), "stage=student", *MINI],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    one_line(done.stderr, "Permission denied")


def test_a_full_or_closed_device_is_said(cli):
    """/proc takes no folder from anyone, root included: a stand-in for a read-only disk."""
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    said = cli("stage=student", *MINI, "output_dir=/proc/outputs")
    assert said.code == 1
    one_line(said.err, "/proc/outputs")
