"""Every method, with every kind of network, on images of every shape: two steps alone, together."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import metrics

from kd.methods import METHODS

NET = """
from torch import nn


def small(channels, num_classes, share=0.1):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Dropout(share) if share else nn.Identity(),
        nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, num_classes),
    )
"""
IMAGES = {
    "digits": ("data=digits",),
    "mnist_mini": ("data=mnist_mini",),
    "npz": ("data=npz", "data.file=colour.npz", "data.batch_size=20"),
}
NAMED = ("target=my_nets.small", "hidden_layer=11", "map_layers=[2,6]")
# The student's words and the teacher's; their hidden representations are of 32, their maps as many.
NETWORKS = {
    "mlp": ((), ("model=cnn",)),
    "cnn": (("model=cnn", "model.channels=[2,4]"), ("model=cnn",)),
    "resnet8": (("model=resnet8", "model.width=8"),) * 2,
    "custom": (("model=custom", *(f"model.{word}" for word in NAMED)),) * 2,
    "stackable": (("model=custom", *(f"model.{word}" for word in NAMED)),) * 2,
}


@pytest.fixture
def place(cli, tmp_path, monkeypatch):
    """A folder with colour images of 12 × 10 pixels in four classes, and a network on the path."""
    draw = np.random.default_rng(0)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 4
        shades = 60 * labels[:, None, None, None] + draw.integers(0, 60, (count, 12, 10, 3))
        return shades.astype(np.uint8), labels

    (x_train, y_train), (x_test, y_test) = part(120), part(40)
    np.savez("colour.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    (tmp_path / "my_nets.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    yield tmp_path
    sys.modules.pop("my_nets", None)


def words_of(network: str, images: str, student: bool) -> tuple[str, ...]:
    """The words of a network for images, of student or teacher."""
    words = NETWORKS[network][0 if student else 1]
    if network not in ("custom", "stackable"):
        return words
    share = 0.1 if network == "custom" else 0  # torch's dropout keeps it out of a stack
    channels = f"args={{channels: {3 if images == 'npz' else 1}, share: {share}}}"
    words += (f"model.{channels}",)
    if student:
        words += (*(f"teacher.model.{word}" for word in NAMED), f"teacher.model.{channels}")
    return words


def logits(study: str) -> dict[str, np.ndarray]:
    """Of each distilled run of a study, by its folder's name."""
    found = Path("outputs", study, "distill").glob("*/predictions.npz")
    return {path.parent.name: np.load(path)["logits"] for path in found}


@pytest.mark.slow
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_method_trains_every_network_on_every_shape(cli, place, network, images):
    common = (*IMAGES[images], "trainer.max_epochs=1", "trainer.limit_batches=2")
    said = cli("stage=teacher", *common, *words_of(network, images, student=False))
    assert said.code == 0, said.err
    taught = f"teacher.checkpoint={next(Path('outputs/main/teacher').iterdir())}"
    names = [name for name in METHODS if network != "mlp" or not METHODS[name].needs_maps]
    words = ("-m", "stage=distill", *common, *words_of(network, images, student=True), taught)
    seeds = () if network == "custom" else ("seed=0,1",)
    stacked = "trainer.stack=always", "trainer.group_mb=10000", "optim=sgd", "optim.lr=1e-3"
    words += (f"kd={','.join(names)}", *seeds, *stacked)
    said = cli(*words)
    assert said.code == 0, said.err
    count = len(names) * (2 if seeds else 1)
    assert ("train together" in said.out) == (network != "custom")
    assert "train alone" not in said.out or network == "custom"
    together = logits("main")
    assert len(together) == count
    classes = 4 if images == "npz" else 10
    assert all(found.shape[1] == classes for found in together.values())
    shapes = {"digits": "1x8x8", "mnist_mini": "1x28x28", "npz": "3x12x10"}
    (run, *_) = Path("outputs/main/distill").iterdir()
    assert metrics(run)["images/shape"] == shapes[images]
    assert metrics(run)["images/classes"] == classes
    if network != "custom":
        assert cli(*words, "study=alone", "hydra/launcher=basic").code == 0
        for name, its in logits("alone").items():
            apart = np.linalg.norm(together[name] - its) / np.linalg.norm(its)
            assert apart < 1e-3, f"{name}: {apart}"
