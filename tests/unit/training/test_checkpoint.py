"""Checkpoints: what they hold, what is refused, and which teacher is meant."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from helpers import config as composed

from kd.config.schema import Config
from kd.errors import UserError
from kd.models.network import Ensemble
from kd.training.checkpoint import content_digest, load_checkpoint
from kd.training.run_folder import read_metrics, write_metrics
from kd.training.teacher import find_teacher, load_teacher


@pytest.fixture
def checkpoint(teacher) -> Path:
    return teacher / "model.ckpt"


def change(path: Path, **entries) -> None:
    content = torch.load(path, weights_only=True) | entries
    torch.save(content | {"sha256": content_digest(content)}, path)


def test_a_checkpoint_holds_plain_values_and_says_what_it_is(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    assert content["stage"] == "teacher"
    assert content["model"] == {"name": "cnn", "hidden": 32, "channels": [8, 16]}
    assert len(content["split"]) == 16
    network = load_checkpoint(checkpoint, content["split"])
    assert not network.training
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in content["state_dict"].items())


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_malicious_checkpoint_does_not_run(tmp_path):
    path, trace = tmp_path / "model.ckpt", tmp_path / "ran"
    torch.save({"format": 1, "state_dict": Evil(trace)}, path)
    with pytest.raises(UserError, match="not safe"):
        load_checkpoint(path)
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(UserError, match="not safe"):
        load_checkpoint(path)
    assert not trace.exists()


def test_damaged_and_foreign_files_are_refused(checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    for content in (b"", b"not a checkpoint", whole[:100], whole[: len(whole) // 2]):
        checkpoint.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(checkpoint)
    for foreign in ({"state_dict": {}}, [1, 2], {"format": 99}):
        torch.save(foreign, checkpoint)
        with pytest.raises(UserError, match="not a checkpoint of this project"):
            load_checkpoint(checkpoint)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "nothing.ckpt")


def test_an_altered_checkpoint_is_refused(checkpoint):
    """torch's own reader sees none of these."""
    whole = checkpoint.read_bytes()
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]["dense.weight"]
    middle = whole.index(weights.numpy().tobytes()) + 4 * 784 * 16
    for place in (middle, middle + 1, middle + 3):
        altered = bytearray(whole)
        altered[place] ^= 4
        checkpoint.write_bytes(altered)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(checkpoint)
    checkpoint.write_bytes(whole)
    load_checkpoint(checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    for part in ({"epoch": 1}, {"split": "0" * 16}, {"stage": "student"}, {"sha256": None}):
        torch.save(content | part, checkpoint)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(checkpoint)
    torch.save(content | {"format": 1}, checkpoint)
    with pytest.raises(UserError, match="of an older version"):
        load_checkpoint(checkpoint)


def test_weights_of_another_architecture_are_refused(checkpoint):
    good = torch.load(checkpoint, weights_only=True)["model"]
    for model in (
        {**good, "hidden": 16},
        {"name": "mlp", "hidden": 32},
        {"name": "vgg"},
        {**good, "channels": "many"},
        None,
    ):
        change(checkpoint, model=model)
        with pytest.raises(UserError, match="do not fit the architecture"):
            load_checkpoint(checkpoint)


def test_another_split_is_refused(checkpoint):
    with pytest.raises(UserError, match="another data split"):
        load_checkpoint(checkpoint, "0" * 16)


def config(*words: str) -> Config:
    return composed("stage=distill", *words)


def split_of(teacher: Path) -> str:
    return torch.load(teacher / "model.ckpt", weights_only=True)["split"]


def test_the_studys_teacher_is_found(teacher):
    assert [p.parent.name for p in find_teacher(config(), split_of(teacher))] == [teacher.name]


def test_an_incomplete_teacher_is_none(teacher):
    (teacher / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"first run: python train.py stage=teacher"):
        find_teacher(config(), "")


def test_the_missing_teachers_command_is_named(cli):
    with pytest.raises(UserError, match=r"python train.py stage=teacher study=x seed=3$"):
        find_teacher(config("study=x", "teacher.seed=3"), "")
    with pytest.raises(UserError, match=r"python train.py stage=teacher \+experiment=talk$"):
        find_teacher(config("+experiment=talk"), "", ["+experiment=talk"])


def test_of_several_teachers_the_one_of_the_split_then_the_plain_one_counts(teacher):
    split = split_of(teacher)
    folder = teacher.parent
    other = Path(shutil.copytree(teacher, folder / "seed=0,optim.lr=0.1"))
    with pytest.raises(UserError, match="several teachers"):
        find_teacher(config(), split)
    plain = Path(shutil.copytree(teacher, folder / "seed=0"))
    shutil.copytree(teacher, folder / "seed=01")  # no teacher of seed 0
    assert [p.parent.resolve() for p in find_teacher(config(), split)] == [plain]
    for path in (plain, teacher):
        write_metrics(path, read_metrics(path) | {"data/fingerprint": "another"})
    assert [p.parent.resolve() for p in find_teacher(config(), split)] == [other]


def test_a_list_of_checkpoints_is_an_ensemble(teacher):
    again = shutil.copytree(teacher, teacher.parent / "again")
    paths = find_teacher(config(f'teacher.checkpoint=["{teacher}","{again}/model.ckpt"]'), "")
    assert paths == [teacher / "model.ckpt", again / "model.ckpt"]
    ensemble = load_teacher(paths, split_of(teacher)).network
    assert isinstance(ensemble, Ensemble)
    images = torch.rand(3, 1, 28, 28)
    single = load_checkpoint(teacher / "model.ckpt")(images).log_softmax(1)
    assert torch.allclose(ensemble(images), single, atol=1e-5)
