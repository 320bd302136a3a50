"""Networks that see images minus the mean training image: trained, saved, loaded, teaching."""

import numpy as np
import pytest
import torch
from helpers import (
    DIGITS,
    MINI,
    assert_equal_up_to_rounding,
    complete,
    distance,
    interrupting,
    metrics,
    runs,
    weights,
)

import kd
from kd.config.schema import Data
from kd.data.module import ImageDataModule
from kd.models.mlp import MLP
from kd.models.network import Centred, build_model
from kd.training.checkpoint import content_digest, load_checkpoint

CENTRED = "data.centre=true"
LONGER = ("data=mnist_mini", "data.batch_size=32", "trainer.max_epochs=4", CENTRED)
SIZES = {"val_size": 200, "test_size": 200, "batch_size": 32}


def module(**changes) -> ImageDataModule:
    data = Data(dir=str(DIGITS), source="folder", centre=True, **{**SIZES, **changes})
    found = ImageDataModule(data, seed=0)
    found.setup()
    return found


def test_the_mean_is_that_of_the_training_part_whatever_is_taught():
    data = module()
    expected = data.pool.images[data.indices["train"]].double().mean(0)
    torch.testing.assert_close(data.mean.double(), expected, rtol=0, atol=1e-7)
    for changes in ({"views": "shift2"}, {"train_size": 100}, {"omit": [3]}, {"label_noise": 0.5}):
        assert torch.equal(module(**changes).mean, data.mean)
    assert not torch.equal(module(seed=1).mean, data.mean)


@pytest.mark.parametrize("hidden", [16, [16, 8]])
def test_an_mlp_of_centred_images_is_one_of_another_first_bias(hidden):
    data, images = module(), torch.rand(50, 1, 28, 28)
    network, folded = (build_model(MLP(hidden=hidden, dropout=0.0), 0) for _ in "ab")
    first = folded.dense if hidden == 16 else folded.features[1]
    with torch.no_grad():
        first.bias -= first.weight @ data.mean.flatten()
    torch.testing.assert_close(Centred(network, data.mean)(images), folded(images))
    assert not torch.allclose(network(images), folded(images), atol=0.01)


@pytest.mark.parametrize(
    "network", [("model=mlp",), ("model=cnn",), ("model=resnet8", "model.width=2")], ids="-".join
)
def test_a_checkpoint_takes_plain_images(cli, network):
    assert cli("stage=student", *MINI, *network, CENTRED, "keep_epochs=true").code == 0
    (run,) = complete()
    assert metrics(run)["data/centre"] is True
    content = torch.load(run / "model.ckpt", weights_only=True)
    data = module()
    assert torch.equal(content["mean"], data.mean)
    images = data.pool.images[data.indices["test"]]
    said = np.load(run / "predictions.npz")["logits"]
    (study_run,) = kd.load_study("outputs/main").runs
    last = run / "epochs" / "2.ckpt"
    for loaded in (load_checkpoint(run / "model.ckpt"), load_checkpoint(last), study_run.network()):
        with torch.no_grad():
            np.testing.assert_allclose(loaded(images).numpy(), said, rtol=1e-4, atol=1e-5)
    content["mean"][0, 5, 5] += 1
    assert content_digest(content) != content["sha256"]
    assert metrics(run)["model/params"] == sum(p.numel() for p in loaded.parameters())


def test_it_changes_a_network_and_neither_split_nor_order(cli):
    for study, words in (("plain", ()), ("centred", (CENTRED,))):
        assert cli("stage=student", *MINI, *words, f"study={study}").code == 0
    (plain,), (centred,) = complete("plain"), complete("centred")
    assert metrics(plain)["data/fingerprint"] == metrics(centred)["data/fingerprint"]
    assert distance(plain, centred) > 0.01
    assert weights(plain).keys() == weights(centred).keys()


@pytest.mark.parametrize("live", [(), ("data.augment.shift=1",)], ids=["known", "live"])
@pytest.mark.parametrize("centred", ["teacher", "student", "both"])
def test_each_of_teacher_and_student_is_centred_by_itself(cli, teacher, centred, live):
    if centred != "student":
        assert cli("stage=teacher", *MINI, CENTRED, "study=other").code == 0
        (teacher,) = complete("other")
    words = () if centred == "teacher" else (CENTRED,)
    given = f'teacher.checkpoint="{teacher}"'
    assert cli("stage=distill", *MINI, *words, *live, given).code == 0
    (run,) = complete(stage="distill")
    loaded = load_checkpoint(teacher / "model.ckpt")
    assert isinstance(loaded, Centred) == (centred != "student")
    data = module()
    with torch.no_grad():
        seen = loaded(data.pool.images[data.indices["test"]]).argmax(1)
    mine = np.load(run / "predictions.npz")["logits"].argmax(1)
    agreement = np.mean(seen.numpy() == mine)
    assert metrics(run)["fidelity/agreement"] == pytest.approx(agreement, abs=0.006)


TOGETHER = {
    "alone": ("stage=student", "seed=0,1,2"),
    "distilled": ("stage=distill", "seed=0,1", "kd.T=1,4", "data.views=shift1"),
    "live": ("stage=distill", "seed=0,1", "kd.T=1,4", "data.augment.shift=1"),
    "stack": ("stage=distill", "seed=0,1", "model.hidden=[16,8]", "optim.lr=0.001", "kd.T=1,4"),
}


@pytest.mark.slow
@pytest.mark.parametrize("which", TOGETHER)
def test_students_together_are_those_alone(cli, teacher, which):
    words = (*LONGER, f"teacher.checkpoint={teacher}", "trainer.stack=always", *TOGETHER[which])
    words += ("trainer.group_mb=500",)
    said = cli("-m", *words, "study=together")
    assert said.code == 0, said.err
    assert "students train together" in said.out
    assert "train alone" not in said.out
    assert cli("-m", *words, "study=alone", "hydra/launcher=basic").code == 0
    stage = TOGETHER[which][0].removeprefix("stage=")
    assert_equal_up_to_rounding(runs("together", stage), runs("alone", stage))


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["alone", "group"])
def test_an_interrupted_training_goes_on_with_the_same_bits(cli, sweep):
    words = (*sweep, "stage=student", *LONGER)
    assert cli(*words, "study=whole").code == 0
    with interrupting(2):
        assert cli(*words, "study=cut").code == 130
    assert "after epoch 2: continuing" in cli(*words, "study=cut").out
    whole, cut = runs("whole", "student"), runs("cut", "student")
    assert len(whole) == (2 if sweep else 1)
    for name, run in whole.items():
        for file in ("model.ckpt", "predictions.npz"):
            assert (run / file).read_bytes() == (cut[name] / file).read_bytes()


def test_a_network_of_ones_own_that_is_centred_takes_plain_images(cli):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    trained = kd.train(network, "mnist_mini", CENTRED, epochs=1)
    data = module()
    with torch.no_grad():
        logits = trained.network()(data.pool.images[data.indices["test"]]).numpy()
    said = np.load(trained.folder / "predictions.npz")["logits"]
    np.testing.assert_allclose(logits, said, rtol=1e-4, atol=1e-5)
    assert cli("stage=distill", *MINI, f"teacher.checkpoint={trained.folder}").code == 0
