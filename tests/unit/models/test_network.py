"""The networks are the talk's, and draw nothing from torch's global random state."""

import math

import pytest
import torch
from pytorch_lightning.utilities.model_summary import ModelSummary

from kd.config.schema import Optim
from kd.models.base import Task
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.models.network import Dropout, Ensemble, build_model, count_parameters
from kd.models.resnet8 import ResNet8
from kd.training.modules import TeacherModule

NETWORKS = [CNN(), MLP(), MLP(hidden=[40, 32])]


@pytest.fixture
def images():
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def layers(config):
    module = TeacherModule(build_model(config, 0), Optim())
    summary = ModelSummary(module, max_depth=-1)
    return list(zip(summary.layer_types, summary.param_nums, summary.out_sizes, strict=True))


def test_the_layers_are_the_talks():
    leaves = ("Conv2d", "Linear")
    teacher = [(name, count) for name, count, _ in layers(CNN()) if name in leaves]
    assert teacher == [("Conv2d", 80), ("Conv2d", 1168), ("Linear", 25_120), ("Linear", 330)]
    student = [(name, count) for name, count, _ in layers(MLP()) if name in leaves]
    assert student == [("Linear", 25_120), ("Linear", 330)]
    assert count_parameters(build_model(CNN(), 0)) == 26_698
    assert count_parameters(build_model(MLP(), 0)) == 25_450


def test_the_shapes_on_the_way_are_the_talks():
    shapes = [
        tuple(shape) for name, _, shape in layers(CNN()) if name not in ("Network", "Sequential")
    ]
    assert list(dict.fromkeys(shapes)) == [
        (1, 8, 28, 28),
        (1, 8, 14, 14),
        (1, 16, 14, 14),
        (1, 16, 7, 7),
        (1, 784),
        (1, 32),
        (1, 10),
    ]


@pytest.mark.parametrize("config", NETWORKS, ids=repr)
def test_weights_are_glorot_uniform_and_biases_zero(config):
    for parameter in build_model(config, 0).parameters():
        if parameter.ndim == 1:
            assert not parameter.any()
            continue
        area = math.prod(parameter.shape[2:])
        limit = math.sqrt(6 / (area * (parameter.shape[0] + parameter.shape[1])))
        assert parameter.abs().max() <= limit
        assert parameter.abs().max() > 0.8 * limit
        assert parameter.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.25)


@pytest.mark.parametrize("config", NETWORKS, ids=repr)
def test_the_hidden_representation_is_exposed(config, images):
    network = build_model(config, 0).eval()
    logits, hidden, _ = network.see(images)
    assert hidden.shape == (5, 32)
    assert (hidden >= 0).all()
    assert torch.equal(logits, network(images))
    assert torch.allclose(network.output(hidden), logits)
    assert network(images).shape == (5, 10)


@pytest.mark.parametrize("config", NETWORKS, ids=repr)
def test_weights_and_masks_belong_to_the_seed(config, images):
    def outputs(seed: int) -> torch.Tensor:
        network = build_model(config, seed)
        return torch.stack([network(images) for _ in range(3)])

    once = outputs(7)
    torch.manual_seed(99)  # the network owes nothing to torch's global state
    assert torch.equal(outputs(7), once)
    assert not torch.equal(outputs(8), once)
    assert not torch.equal(once[0], once[1]), "each step has a mask of its own"


def test_dropout_keeps_the_mean_and_the_share():
    dropout, ones = Dropout(0.25, seed=0), torch.ones(1000, 100)
    dropped = dropout(ones)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.max().item() == pytest.approx(1 / 0.75)
    assert torch.equal(dropout.eval()(ones), ones)
    assert torch.equal(Dropout(0, seed=0)(ones), ones)


def test_looking_at_the_layers_draws_no_mask(images):
    looked, plain = build_model(MLP(), 0), build_model(MLP(), 0)
    ModelSummary(TeacherModule(looked, Optim()), max_depth=-1)
    assert looked.training
    assert torch.equal(looked(images), plain(images))


def test_widths_are_settings(images):
    network = build_model(CNN(channels=[4, 6, 8], hidden=11), 0)
    _, hidden, maps = network.see(images)
    assert hidden.shape == (5, 11)
    assert [tuple(m.shape) for m in maps] == [(5, 4, 14, 14), (5, 6, 7, 7), (5, 8, 3, 3)]
    assert count_parameters(network) == 40 + 222 + 440 + (8 * 3 * 3 + 1) * 11 + 12 * 10


def test_hintons_student_has_two_hidden_layers_and_one_stream_of_masks(images):
    """Hinton et al. 2015, section 3: 784 · 800 + 800, 800 · 800 + 800, 800 · 10 + 10."""
    config = MLP(hidden=[800, 800], dropout=0.5)
    network = build_model(config, 0)
    assert count_parameters(network) == 1_276_810
    assert not config.stacks
    assert network.eval().see(images).hidden.shape == (5, 800)
    assert [type(layer).__name__ for layer in network.features] == [
        *("Flatten", "Linear", "ReLU", "Dropout"),
    ]
    assert network.features[3] is network.dropout, "its masks and the last layer's do not agree"


@pytest.mark.parametrize("task", [Task(), Task((3, 32, 32), 100), Task((2, 9, 14), 3)], ids=repr)
@pytest.mark.parametrize("config", [CNN(), MLP(), MLP(hidden=[7, 5]), ResNet8(width=4)], ids=repr)
def test_networks_are_made_for_their_task(config, task):
    network = build_model(config, 0, task).eval()
    logits, hidden, maps = network.see(torch.rand(2, *task.shape))
    assert logits.shape == (2, task.classes)
    assert hidden.shape[0] == 2
    assert bool(maps) == config.has_maps
    assert all(found.ndim == 4 for found in maps)


def test_the_small_resnet_is_he_et_als(images):
    network = build_model(ResNet8(), 0)
    assert count_parameters(network) == 77_754
    _, hidden, maps = network.eval().see(images)
    assert [tuple(found.shape) for found in maps] == [
        (5, 16, 28, 28),
        (5, 32, 14, 14),
        (5, 64, 7, 7),
    ]
    assert torch.allclose(hidden, maps[-1].mean((2, 3)))
    weighted = [
        p for name, p in network.named_parameters() if p.ndim > 1 and "shortcut" not in name
    ]
    assert len(weighted) == 8


@pytest.mark.parametrize("init", ["module", "glorot"])
def test_weights_of_the_networks_own_belong_to_the_seed(init):
    def weights(seed: int) -> torch.Tensor:
        parameters = build_model(ResNet8(init=init, width=4), seed).parameters()
        return torch.cat([parameter.flatten() for parameter in parameters])

    before = torch.random.get_rng_state()
    once = weights(3)
    assert torch.equal(torch.random.get_rng_state(), before) or init == "glorot"
    torch.manual_seed(99)
    assert torch.equal(weights(3), once)
    assert not torch.equal(weights(4), once)
    norm = build_model(ResNet8(init=init, width=4), 3).stem[1]
    assert torch.equal(norm.weight, torch.ones(4)), "batch norm begins as it is meant to"


def test_an_ensemble_averages_probabilities(images):
    members = [build_model(MLP(), seed).eval() for seed in range(3)]
    mean = torch.stack([m(images).softmax(1) for m in members]).mean(0)
    assert torch.allclose(Ensemble(members)(images).softmax(1), mean, atol=1e-6)
