"""Networks of the user's own package, and a teacher that kd has not trained."""

import random
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import MINI, interrupting, metrics, one_line, weights

from kd.training import own_code

NETS = '''
import random

import numpy as np
import torch
from torch import nn


def small(width=4, num_classes=10, dropout=0.2):
    """Convolutions with batch norm, and torch's own dropout."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout),
        nn.Linear(8 * width, 32), nn.ReLU(), nn.Linear(32, num_classes),
    )


class Flat(nn.Module):
    """Batch norm over vectors."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, num_classes)
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        return self.head(self.body(images))


def fails(num_classes):
    raise ValueError("no\\nluck")


def text(num_classes):
    return "text"


class Slips(nn.Linear):
    """Drops units in evaluation mode too."""

    def __init__(self, num_classes):
        super().__init__(784, num_classes)

    def forward(self, images):
        return torch.nn.functional.dropout(super().forward(images.flatten(1)), 0.5)


def frozen(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes)).requires_grad_(False)


class Two(nn.Linear):
    """Gives two outputs in training mode, as GoogLeNet does."""

    def __init__(self, num_classes):
        super().__init__(784, num_classes)

    def forward(self, images):
        logits = super().forward(images.flatten(1))
        return (logits, logits) if self.training else logits


class Odd(Slips):
    """Saves what is no tensor."""

    def forward(self, images):
        return nn.Linear.forward(self, images.flatten(1))

    def get_extra_state(self):
        return {"a": 1}


class Noisy(nn.Linear):
    """Draws from every global generator there is, as code of others may."""

    def __init__(self, num_classes):
        super().__init__(784, num_classes)
        self.start = float(np.random.rand())

    def forward(self, images):
        logits = super().forward(images.flatten(1))
        noise = random.random() + np.random.rand() + torch.rand(()) if self.training else self.start
        return logits * (1 + 0.1 * noise)


def sure(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes), nn.Softmax(1))


def wide(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 7))


def pair(num_classes):
    class Pair(nn.Flatten):
        def forward(self, images):
            return images, images
    return Pair()


def colour(num_classes):
    return nn.Conv2d(3, 4, 3)


number = 7
'''
SMALL = ("model=custom", "model.target=my_nets.small")
FLAT = ("model=custom", "model.target=my_nets.Flat")
TAUGHT = ("teacher.model.target=my_nets.small",)


@pytest.fixture
def nets(tmp_path, monkeypatch) -> Path:
    """A module of the user's own, on the path."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "my_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    yield folder
    sys.modules.pop("my_nets", None)


def found(stage: str, *words: str, study: str = "main") -> Path:
    """The folder of the one run of a stage."""
    (run,) = (path.parent for path in Path("outputs", study, stage).glob("*/metrics.json"))
    return run


def test_a_network_trains_from_its_own_weights_and_is_named(cli, nets):
    words = ("stage=student", *MINI, *SMALL, "model.args={width: 3}", "trainer.max_epochs=4")
    words += ("optim.lr=0.02",)
    said = cli(*words)
    assert said.code == 0, said.err
    run = found("student")
    assert metrics(run)["model/target"] == "my_nets.small"
    assert metrics(run)["model/args"] == "{'width': 3}"
    assert metrics(run)["test/acc"] > 0.3
    kept = weights(run)
    assert kept["0.weight"].shape == (3, 1, 3, 3), "by the names that its own code gives"
    assert kept["1.weight"].std() < 0.5, "batch norm's scale begins at 1"
    assert cli(*words).out.startswith("skipped")


def test_a_complete_run_of_other_code_is_not_skipped(cli, nets, monkeypatch):
    assert cli("stage=student", *MINI, *SMALL).code == 0
    with (nets / "my_nets.py").open("a") as file:
        file.write("\n\n# another version\n")
    said = cli("stage=student", *MINI, *SMALL, "overwrite=true")
    one_line(said.err, "my_nets.py: was edited after this process imported it, which still uses")
    monkeypatch.setattr(own_code, "_imported", {})  # as in a new process
    said = cli("stage=student", *MINI, *SMALL)
    one_line(said.err, "other settings: your own code of the model; give study")
    assert cli("stage=student", *MINI, *SMALL, "overwrite=true").code == 0
    assert cli("stage=student", *MINI, *SMALL).out.startswith("skipped")


def test_the_same_command_twice_gives_the_same_weights(cli, nets):
    """Torch's own dropout included, whatever was drawn before."""
    for study in ("one", "two"):
        torch.rand(7)
        assert cli("stage=student", *MINI, *SMALL, f"study={study}").code == 0
    one, two = (weights(found("student", study=study)) for study in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    cli("stage=student", *MINI, *SMALL, "study=three", "seed=1")
    assert not torch.equal(weights(found("student", study="three"))["9.weight"], one["9.weight"])


@pytest.mark.parametrize("target", ["small", "Noisy"])
def test_an_interrupted_training_ends_as_if_it_had_not_been(cli, nets, target):
    network = ("model=custom", f"model.target=my_nets.{target}")
    words = ("stage=student", *MINI, *network, "trainer.max_epochs=3")
    assert cli(*words, "study=whole").code == 0
    with interrupting(2):
        assert cli(*words, "study=cut").code == 130
    random.seed(8)  # whatever comes between
    np.random.seed(8)
    said = cli(*words, "study=cut")
    assert "an earlier attempt ended after epoch 2" in said.out
    one, two = (weights(found("student", study=study)) for study in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_at_alpha_1_a_distilled_one_is_the_one_alone(cli, nets, teacher):
    assert cli("stage=student", *MINI, *SMALL).code == 0
    assert cli("stage=distill", *MINI, *SMALL, "kd.alpha=1").code == 0
    one, two = (weights(found(stage)) for stage in ("student", "distill"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_init_glorot_draws_linear_layers_and_convolutions_alone(cli, nets):
    assert cli("stage=student", *MINI, *FLAT, "model.init=glorot").code == 0
    kept = weights(found("student"))
    assert kept["body.2.weight"].mean() == pytest.approx(1, abs=0.2)
    assert metrics(found("student"))["test/acc"] > 0.3


@pytest.mark.slow
def test_a_custom_teacher_is_named_again_and_nothing_imports_it_unasked(cli, nets):
    assert cli("stage=teacher", *MINI, *SMALL, "model.args={width: 3}").code == 0
    said = cli("stage=distill", *MINI)
    words = "teacher.model.target=my_nets.small 'teacher.model.args={width:3}'"
    one_line(said.err, f"which nothing imports unasked; name it again: {words}")
    assert cli("stage=distill", *MINI, *shlex.split(words)).code == 0
    assert metrics(found("distill"))["teacher/model/target"] == "my_nets.small"
    assert cli("stage=report", "trust_code=true").code == 0
    assert "| parameters | 1,346" in Path("outputs/main/report/report.md").read_text()
    del sys.modules["my_nets"]
    (nets / "my_nets.py").unlink()
    said = cli("stage=report")
    assert said.code == 0, said.err
    assert "which nothing imports unasked" in Path("outputs/main/report/report.md").read_text()


@pytest.mark.slow
def test_hidden_layers_and_maps_are_seen_by_name(cli, nets, teacher):
    taught = (*TAUGHT, "teacher.model.hidden_layer=10", "teacher.model.map_layers=[2,5]")
    assert cli("stage=teacher", *MINI, *SMALL, "study=own").code == 0
    words = ("stage=distill", *MINI, "study=own", *taught)
    said = cli("-m", *words, "kd=hint,rkd,cosine", "model.hidden=32")
    assert said.code == 0, said.err
    assert cli(*words, "kd=at", "model=cnn").code == 0
    student = (*FLAT, "model.hidden_layer=body.3")
    said = cli("-m", *words, *student, "kd=hint,pkt")
    assert said.code == 0, said.err
    assert len(list(Path("outputs/own/distill").glob("*/metrics.json"))) == 6


@pytest.mark.slow
def test_a_state_dict_of_other_code_teaches(cli, nets):
    sys.path.insert(0, str(nets))
    import my_nets

    network = my_nets.small(width=5)
    torch.save(network.state_dict(), "plain.pt")
    wrapped = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, "nested.pt")
    words = ("-m", "stage=distill", *MINI, *TAUGHT, "teacher.model.args={width: 5}")
    said = cli(*words, "teacher.checkpoint=plain.pt,nested.pt")
    assert said.code == 0, said.err
    runs = list(Path("outputs/main/distill").glob("*/metrics.json"))
    first, second = (np.load(run.parent / "predictions.npz")["logits"] for run in runs)
    assert np.abs(first - second).max() < 1e-4, "their places in the stack round differently"
    assert all(metrics(run.parent)["teacher/split"] == "unknown" for run in runs)
    assert "its split is unknown" in said.out
    cli("stage=student", *MINI)
    said = cli("stage=report")
    assert "trained elsewhere, on images that are not known" in said.out, said.out


def test_batch_norm_meets_no_image_by_itself(cli, nets):
    said = cli("stage=student", *MINI, *FLAT, "data.batch_size=17")
    one_line(said.err, "data.batch_size=17: leaves a batch of one image of 800")
    assert cli("stage=student", *MINI, "data.batch_size=17").code == 0


WRONG = [
    ("model.target=null", "model.target: missing; give it as model.target=my_package.my_module"),
    ("model.target=small", "model.target=small: must be a name with dots"),
    (
        "model.target=no_such.small",
        "cannot be imported (No module named 'no_such'); put its fol",
    ),
    ("model.target=my_nets.nothing", "my_nets has no class or function nothing"),
    ("model.target=my_nets.number", "my_nets has no class or function number"),
    ("model.target=my_nets.fails", "cannot be made with model.args=null: no luck"),
    ("model.target=my_nets.text", "gives a str, no torch.nn.Module"),
    ("model.target=my_nets.wide", "gives (2, 7) for 2 images, not logits (2, 10)"),
    ("model.target=my_nets.pair", "gives a tuple for 2 images, not logits (2, 10)"),
    ("model.target=my_nets.colour", "fails on images of 1 × 28 × 28: "),
    (
        "model.target=my_nets.Slips",
        "gives other logits for the same images each time in eval",
    ),
    ("model.target=my_nets.sure", "gives probabilities, not logits; leave out its softmax"),
    ("model.target=my_nets.frozen", "model.target=my_nets.frozen: has no parameters to train"),
    ("model.target=my_nets.Two", "gives a tuple in training mode, not logits (4, 10)"),
    (
        "model.target=my_nets.Odd",
        "_extra_state in its state_dict is no tensor, and cannot be sav",
    ),
    ("model.args={depth: 3}", "cannot be made with model.args={depth:3}: "),
    ("model.args=3", "model.args=3: must be null or names with values, as in {width:16}"),
    ("model.args=[1]", "model.args=[1]: must be null or names with values"),
    ("model.hidden_layer=42", "lacks a layer of [42]; its layers: 0, 1, 2"),
    ("model.map_layers=[2,x]", "lacks a layer of [2,x]; its layers: "),
    ("model.map_layers=[11]", "model.map_layers=[11]: give no maps (batch, channels, height"),
    ("model.target=my_nets.Flat model.hidden_layer=unused", "does not use its layer unused"),
    ("model.init=zeros", "model.init=zeros: must be module or glorot"),
    ("model.hidden=3", "model.hidden: no such key"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_network_is_one_line(cli, nets, words, said):
    given = words.split(" model") if "args" not in words else [words]
    given = [word if word.startswith("model") else f"model{word}" for word in given]
    found = cli("stage=student", *MINI, *SMALL, *given)
    assert found.code == 1
    one_line(found.err, said)
    assert not Path("outputs").exists()


WRONG_TEACHERS = [
    (("teacher.model.hidden_layer=10",), "teacher.model.target: missing; teacher.model describes"),
    (
        ("kd=hint", *TAUGHT),
        "kd.method=hint: compares hidden representations, which the te",
    ),
    (("kd=at", "model=cnn", *TAUGHT), "or name them by teacher.model.map_layers"),
    (
        ("teacher.model.target=my_nets.Flat",),
        "it was trained as teacher.model.target=my_nets.small",
    ),
    (("data.seed=1", *TAUGHT), "was trained on another data split"),
    (("data=digits", *TAUGHT), "was trained on images of 1 × 28 × 28, 10 classes, this run's are"),
    ((*TAUGHT, "kd=hint", "teacher.model.hidden_layer=10", *FLAT), "name the student's by model.h"),
]


@pytest.mark.parametrize(
    ("words", "said"), WRONG_TEACHERS, ids=[said for _, said in WRONG_TEACHERS]
)
def test_a_wrong_teacher_is_one_line(cli, nets, words, said):
    assert cli("stage=teacher", *MINI, *SMALL).code == 0
    given = f"teacher.checkpoint={found('teacher')}"
    result = cli("stage=distill", *MINI, *words, given)
    assert result.code == 1
    one_line(result.err, said)


def test_a_target_for_a_network_of_kds_own_is_one_line(cli, nets, teacher):
    said = cli("stage=distill", *MINI, *TAUGHT)
    one_line(said.err, "model.ckpt holds a network of kd's own, which needs none; leave it out")


def test_a_file_that_is_no_state_dict_is_one_line(cli, nets):
    torch.save({"a": torch.zeros(2)}, "other.pt")
    said = cli("stage=distill", *MINI, *TAUGHT, "teacher.checkpoint=other.pt")
    one_line(said.err, "other.pt: does not fit teacher.model.target=my_nets.small: lacks 0.weight")
    said = cli("stage=distill", *MINI, "teacher.checkpoint=other.pt")
    one_line(said.err, "or name the network of a state_dict by teacher.model.target")


RESNET = ("model=custom", "model.target=torchvision.models.resnet18")


def test_torchvisions_networks_take_colour_images(cli):
    said = cli("stage=student", "data=digits", *RESNET)
    one_line(said.err, "model.target=torchvision.models.resnet18: fails on images of 1 × 8 × 8: ")
    assert re.search(r"expected input.* to have 3 channels", said.err)


@pytest.mark.slow
def test_torchvisions_resnet_learns(cli):
    """Its num_classes is filled in, its layers are seen by their names."""
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (80 * labels[:, None, None, None] + draw.integers(0, 80, (60, 32, 32, 3))).astype("u1")
    np.savez("mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    data = ("data=npz", "data.file=mine.npz", "data.batch_size=16", "trainer.max_epochs=3")
    assert cli("stage=teacher", *data, *RESNET).code == 0
    assert metrics(found("teacher"))["model/params"] == 11_178_051, "of three classes"
    layers = ("hidden_layer=avgpool", "map_layers=[layer1,layer4]")
    words = (*RESNET, *(f"model.{word}" for word in layers))
    words += ("teacher.model.target=torchvision.models.resnet18",)
    words += tuple(f"teacher.model.{word}" for word in layers)
    said = cli("-m", "stage=distill", *data, *words, "kd=hint,at")
    assert said.code == 0, said.err
