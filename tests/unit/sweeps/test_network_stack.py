"""One step of networks of any architecture in a stack: what each student's would be alone."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import DIGITS, as_job, one_group
from torch import Tensor, nn

from kd.config.schema import Augment, Config, Data, Optim, Trainer
from kd.data.module import ImageDataModule
from kd.methods import METHODS
from kd.methods.base import loss_weights_at
from kd.models._given import given
from kd.models.base import MNIST, Model, Task
from kd.models.cnn import CNN
from kd.models.custom import Custom
from kd.models.mlp import MLP
from kd.models.network import Dropout, build_model, build_regressor, weights_of
from kd.models.resnet8 import ResNet8
from kd.sweeps import choice
from kd.sweeps.grouping import plan_groups
from kd.sweeps.module import GroupModule
from kd.sweeps.network_stack import why_not
from kd.sweeps.students import student_of
from kd.training.material import Accelerator, Material
from kd.training.memory import kept_values
from kd.training.modules import DistillModule, StudentModule
from kd.training.teacher import check_method, needs_live_teacher, teacher_outputs

SEEDS = 3, 4
CLOSE = 1e-9  # relative to the norm of each tensor
CPU = Accelerator("cpu", torch.device("cpu"))

torch.set_flush_denormal(True)  # as every run does


@pytest.fixture(scope="module", autouse=True)
def exact():
    """Double precision: what differs then is not rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Own(nn.Module):
    """A network of somebody's own: tied and unused parameters, batch norm, two heads' features."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.first = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.again.weight = self.first.weight
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.ones(4, 1, 1), requires_grad=False)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = torch.relu(self.again(torch.relu(self.first(maps)))) * self.frozen
        return self.head(self.scale * maps.mean((2, 3)))


class Counting(nn.Module):
    """Batch norm whose momentum is one over the number of batches, which asks for a value."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(1, momentum=None), nn.Flatten(), nn.Linear(784, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


class Warming(nn.Module):
    """A network that counts its batches in an attribute."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head, self.steps = nn.Linear(784, num_classes), 0

    def forward(self, images: Tensor) -> Tensor:
        self.steps += self.training
        return min(1.0, self.steps / 100) * self.head(images.flatten(1))


def dropping(num_classes: int) -> nn.Module:
    """A network with torch's own dropout."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, num_classes))


def several(num_classes: int) -> nn.Module:
    """A network with several of kd's dropout layers."""
    return nn.Sequential(
        *(nn.Flatten(), Dropout(0.2, seed=5), nn.Linear(784, 12), nn.ReLU()),
        *(Dropout(0.5, seed=6), nn.Linear(12, num_classes)),
    )


@pytest.fixture(autouse=True)
def own_networks(monkeypatch):
    """The networks above, by name."""
    for make in (Own, Counting, Warming, dropping, several):
        monkeypatch.setitem(given, f"python:{make.__name__}", make)


@pytest.fixture(scope="module")
def teacher(exact) -> nn.Module:
    """A network that is surer of itself than an untrained one."""
    network = build_model(CNN(hidden=24, channels=[4, 6]), seed=9)
    with torch.no_grad():
        network.output.weight.mul_(5)
    return network


@pytest.fixture(scope="module")
def material(teacher) -> Callable[[Config], Material]:
    """A function that gives data and teacher of a configuration, each read once."""
    known: dict[str, Material] = {}

    def make(config: Config) -> Material:
        if (key := repr(config.data)) not in known:
            data = ImageDataModule(config.data, config.seed)
            data.setup()
            images = data.pool.images.double()
            data.pool, data.taught = (
                dataclasses.replace(pool, images=images) for pool in (data.pool, data.taught)
            )
            known[key] = Material(
                CPU, data, [], teacher, None, teacher_outputs(teacher, data, True)
            )
        if config.stage != "distill":
            return known[key]._replace(teacher=None, teacher_outputs=None)
        widths = check_method(config, teacher, MNIST)
        regresses = config.kd.regresses and widths is not None and widths[0] != widths[1]
        return known[key]._replace(
            teachers=[Path("teacher")], widths=widths, regression=widths if regresses else None
        )

    return make


def together(module: GroupModule) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Each student's gradients at the first batch, and its ``state_dict`` after it."""
    adam = torch.optim.Adam(module.parameters(), lr=0.0, fused=True)
    module.optimizers, module.lr_schedulers = lambda **_: adam, lambda: None  # the Trainer's
    module.training_step(next(iter(module.orders))[:1], 0)
    after = [module.state(student) for student in range(module.students)]
    means = [10 * adam.state[parameter]["exp_avg"] for parameter in module.parameters()]
    parts = module.stack.taken_apart(means)
    found: list[dict[str, Tensor]] = [{} for _ in after]
    for (name, place), part in parts.items():
        found[place][name.removeprefix("network.")] = part[0]
    return found, after


def alone(config: Config, material: Material) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same of a student that trains by itself."""
    batches = material.data.training(config.seed)
    network = build_model(config.model, config.seed)
    if config.stage == "student":
        module = StudentModule(network, config.optim)
    else:
        of = material.regression
        regressor = build_regressor(*of, config.seed) if of else None
        outputs = None if needs_live_teacher(config) else material.teacher_outputs
        taught = material.teacher, config.kd, outputs
        module = DistillModule(network, config.optim, *taught, regressor)
        module.loss_weights = loss_weights_at(config.kd, 1 / len(batches))
    module.training_step(next(iter(batches)), 0).backward()
    grads = {n.removeprefix("network."): p.grad for n, p in module.named_parameters()}
    return {n: g for n, g in grads.items() if g is not None}, weights_of(network)


def assert_close(mine: Tensor, its: Tensor, said: str) -> None:
    apart = (mine.double() - its.double()).norm()
    assert apart <= CLOSE * its.double().norm() + 1e-13, f"{said}: {apart}"  # some are 0


def compare(configs: list[Config], material: Callable[[Config], Material]) -> None:
    """Take a step of students in one group, and of each alone."""
    students, trained = one_group(configs)
    gradients, after = together(GroupModule(trained, [material(config) for config in trained]))
    for config in configs:
        number = students.index(student_of(config))
        expected, state = alone(config, material(config))
        assert after[number].keys() == state.keys()
        for name, value in state.items():
            assert_close(after[number][name], value, f"{name} of {config}")
        mine = gradients[number]
        assert mine.keys() >= {name for name in expected if "regressor" not in name}
        for name, gradient in expected.items():
            if name in mine:  # at alpha = 1 a regressor plays no part
                assert_close(mine[name], gradient, f"{name} of {config}")


def grid(model: Model, *methods: str, **changes: object) -> list[Config]:
    """Students of two seeds: without a teacher, and of each method with several numbers."""
    data = Data(dir=str(DIGITS), source="folder", val_size=200, test_size=200, batch_size=24)
    data = dataclasses.replace(data, **changes)
    shared = {"data": data, "model": model, "trainer": Trainer(group_mb=10_000, stack="always")}
    found = []
    for seed in SEEDS:
        found.append(Config(stage="student", seed=seed, **shared))
        for name in methods:
            kd = METHODS[name]()
            for one in (kd, dataclasses.replace(kd, T=3.0, alpha=0.2, warmup_epochs=2)):
                smooth = Optim(label_smoothing=0.1 if one.alpha == 0.2 else 0.0)
                found.append(Config(stage="distill", seed=seed, kd=one, optim=smooth, **shared))
    return found


@pytest.fixture(autouse=True)
def task(monkeypatch):
    """Each network is looked at anew."""
    monkeypatch.setattr(choice, "_refused", {})


NETWORKS = {
    "cnn": CNN(hidden=16, dropout=0.3, channels=[4, 6]),
    "resnet8": ResNet8(width=4),
    "mlp": MLP(hidden=[16, 8], dropout=0.3),
    "own": Custom(target="python:Own"),
    "several": Custom(target="python:several"),
}
VIEWS = Augment(shift=2, rotate=15, mixup=0.5, extra=1)


@pytest.mark.parametrize("augment", [Augment(), VIEWS], ids=["images", "views"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_in_a_stack_is_that_alone(material, network, augment):
    compare(grid(NETWORKS[network], "hinton", augment=augment), material)


@pytest.mark.parametrize("method", ["at", "rkd", "hint"])
def test_methods_see_maps_and_hidden_representations_in_a_stack(material, method):
    compare(grid(NETWORKS["cnn"], method, "dkd"), material)


def test_dropout_may_differ_within_a_stack(material):
    configs = [
        dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=share))
        for config in grid(NETWORKS["mlp"])
        for share in (0.0, 0.2, 0.5)
    ]
    compare(configs, material)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("Counting", "torch.func.vmap cannot map it"),
        ("Warming", "changes attributes"),
        ("dropping", "draws from global random generators"),
    ],
)
def test_what_cannot_be_stacked_trains_apart(target, reason):
    assert reason in (why_not(Custom(target=f"python:{target}"), MNIST) or "")
    configs = grid(Custom(target=f"python:{target}"), "hinton")
    jobs = [as_job(config, str(number)) for number, config in enumerate(configs)]
    groups, apart = plan_groups(jobs, jobs, {})
    assert not groups
    assert len(apart) == len(jobs)
    assert {said.partition(": ")[0] for said in apart.values()} == {
        "model=custom cannot be stacked"
    }


def test_a_smaller_stack_goes_on_with_the_same_students(material):
    """Those of several seeds, with running statistics, after one of three has left."""
    configs = grid(ResNet8(width=4))
    module = GroupModule(configs, [material(config) for config in configs])
    sgd = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module.optimizers, module.lr_schedulers = lambda **_: sgd, lambda: None
    module.trainer = type("T", (), {"optimizers": [sgd]})()
    batch = next(iter(module.orders))[:1]
    module.training_step(batch, 0)
    whole = [module.state(student) for student in range(2)]
    module.live = [1]
    module._shrink()
    for name, value in module.state(1).items():
        assert torch.equal(value, whole[1][name]), name
    module.training_step(batch[:, 1:], 0)
    assert torch.isfinite(module.state(1)["output.weight"]).all()


def test_shapes_other_than_mnists_are_stacked():
    assert why_not(CNN(channels=[3]), Task((3, 12, 10), 4)) is None


def test_the_memory_of_a_network_without_named_maps_is_that_of_its_layers():
    network = build_model(Custom(target="python:Own"), seed=0)
    pixels, maps = 28 * 28, 4 * 13 * 13
    assert pixels + 4 * maps <= kept_values(network, MNIST) <= pixels + 10 * maps
    assert network.training
