"""One step of training: gradients of students in a group are those of each student alone.

For every method there is, and two values of each of its settings. What whole trainings together
and alone have in common beyond that, tests/integration/test_groups.py looks at.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import DIGITS, one_group
from torch import Tensor
from torture.settings import two_values

from kd.config.schema import Augment, Config, Data, Optim, Teacher, Trainer
from kd.data.module import ImageDataModule
from kd.data.pool import Pool
from kd.methods import METHODS
from kd.methods.base import Distillation, loss_weights_at
from kd.models.base import MNIST
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.models.network import build_model, build_regressor
from kd.outputs import Outputs
from kd.sweeps import stack
from kd.sweeps.module import GroupModule
from kd.sweeps.students import student_of
from kd.training.controls import lessons
from kd.training.material import Accelerator, Material
from kd.training.modules import DistillModule, StudentModule
from kd.training.teacher import check_method, needs_live_teacher, teacher_outputs

SEEDS = 3, 4
TEACHERS = 32, 24  # widths of their hidden layers
PASSED = 1  # epochs: a teacher that stops after one has stopped, one that warms up has not done so
CLOSE = 1e-9  # relative to the norm of each tensor's gradient
VIEWS = Augment(shift=2, rotate=15, mixup=0.5, extra=1)
TOGETHER = [name for name, method in METHODS.items() if not method.needs_maps]

torch.set_flush_denormal(True)  # as every run does


@pytest.fixture(scope="module", autouse=True)
def exact():
    """Double precision: what differs then is not rounding, which is up to 1.2e-6 otherwise."""
    torch.set_default_dtype(torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "wide_product", torch.nn.functional.linear)  # oneDNN's has no doubles
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def teachers(exact) -> list[torch.nn.Module]:
    """Two networks that are surer of themselves than untrained ones."""
    networks = [build_model(CNN(hidden=hidden), seed=9) for hidden in TEACHERS]
    with torch.no_grad():
        for network in networks:
            network.output.weight.mul_(5)
    return networks


def doubled(pool: Pool) -> Pool:
    """A pool whose images are in double precision."""
    if (bank := pool.bank) is not None:
        size = bank.strips.untyped_storage().nbytes() // 4
        memory = bank.strips.as_strided((size,), (1,), 0).double()
        strips = memory.as_strided(bank.strips.shape, (1, 1))
        bank = dataclasses.replace(bank, strips=strips)
    return dataclasses.replace(pool, images=pool.images.double(), bank=bank)


@pytest.fixture(scope="module")
def material(teachers):
    """A function that gives data and teacher of a configuration, each made once."""
    known: dict[str, ImageDataModule] = {}
    seen: dict[tuple[str, int], Outputs] = {}

    def make(config: Config) -> Material:
        key = repr(config.data)
        if key not in known:
            data = ImageDataModule(config.data, config.seed)
            data.setup()
            data.pool, data.taught = doubled(data.pool), doubled(data.taught)
            known[key] = data
        data, cpu = known[key], Accelerator("cpu", torch.device("cpu"))
        if config.stage != "distill":
            return Material(cpu, data, [])
        number = config.teacher.seed
        teacher, which = teachers[number], (data.pool.digest, number)
        if which not in seen:
            seen[which] = teacher_outputs(teacher, data, hidden=True)
        widths = check_method(config, teacher, MNIST)
        regresses = config.kd.regresses and widths[0] != widths[1]
        found = [Path(f"teacher{number}")], teacher, None, seen[which], widths
        return Material(cpu, data, *found, widths if regresses else None)

    return make


def variants(method: type[Distillation]) -> list[Distillation]:
    """A method as it is, and with another value of each of its settings."""
    usual = method()
    found = [usual]
    for field in dataclasses.fields(method):
        if field.name != "method":
            found += [dataclasses.replace(usual, **{field.name: v}) for v in two_values(field)]
    return [kd for number, kd in enumerate(found) if kd not in found[:number]]


def together(module: GroupModule) -> list[dict[str, Tensor]]:
    """Each student's gradients at the first batch of the second epoch."""
    adam = torch.optim.Adam(module.stack.parameters(), fused=True)
    module.optimizers, module.lr_schedulers = lambda **_: adam, lambda: None  # the Trainer's
    module.history = [{}] * PASSED
    module.training_step(next(iter(module.orders))[:1], 0)
    for parameter in module.stack.parameters():  # the first mean that Adam has: a tenth of it
        parameter.data = 10 * adam.state[parameter]["exp_avg"]
    found = [module.state(student) for student in range(module.students)]
    parts = module.stack.taken_apart(list(module.stack.parameters()))
    for student, gradients in enumerate(found):
        of_regressor = {name: part[0] for (name, place), part in parts.items() if place == student}
        gradients |= {n: part for n, part in of_regressor.items() if n.startswith("regressor.")}
    return found


def alone(config: Config, material: Material) -> dict[str, Tensor]:
    """The same of a student that trains by itself."""
    batches = material.data.training(config.seed)
    network = build_model(config.model, config.seed)
    if config.stage == "student":
        module = StudentModule(network, config.optim)
    else:
        regressor = None
        if material.regression:
            regressor = build_regressor(*material.regression, config.seed)
        outputs = None if needs_live_teacher(config) else lessons(config, material)
        module = DistillModule(
            network, config.optim, material.teacher, config.kd, outputs, regressor
        )
        module.loss_weights = loss_weights_at(config.kd, PASSED + 1 / len(batches))
    module.training_step(next(iter(batches)), 0).backward()
    return {name.removeprefix("network."): p.grad for name, p in module.named_parameters()}


def compare(kd: list[Distillation], material: Callable[[Config], Material], **settings) -> None:
    """Take a step of students without a teacher and of one for each setting of a method."""
    configs = [Config(stage="student", seed=seed, **settings) for seed in SEEDS]
    for one in kd:
        configs += [Config(stage="distill", seed=seed, kd=one, **settings) for seed in SEEDS]
    compare_all(configs, material)


def compare_all(configs: list[Config], material: Callable[[Config], Material]) -> GroupModule:
    """Take a step of these students in one group, and of each by itself."""
    whole = Trainer(group_mb=10_000)  # one group has room for all
    configs = [dataclasses.replace(config, trainer=whole) for config in configs]
    students, trained = one_group(configs)
    module = GroupModule(trained, [material(config) for config in trained])
    mine = together(module)
    for config in configs:
        gradients = mine[students.index(student_of(config))]
        expected = alone(config, material(config))
        assert gradients.keys() >= {name for name in expected if "regressor" not in name}
        for name, gradient in expected.items():
            if name in gradients:  # at alpha = 1 a regressor plays no part
                apart = (gradients[name] - gradient).norm()
                assert apart <= CLOSE * gradient.norm(), f"{name} of {config}"
    return module


def data(**settings) -> Data:
    sizes = {"val_size": 200, "test_size": 200, "batch_size": 32}
    return Data(dir=str(DIGITS), source="folder", **sizes, **settings)


@pytest.mark.parametrize("method", TOGETHER)
def test_gradients_in_a_group_are_those_alone(material, method):
    compare(variants(METHODS[method]), material, data=data(), model=MLP(dropout=0.3))


@pytest.mark.parametrize("method", TOGETHER)
def test_gradients_on_views_in_a_group_are_those_alone(material, method):
    compare(variants(METHODS[method]), material, data=data(augment=VIEWS), model=MLP(dropout=0.3))


@pytest.mark.parametrize("method", [name for name in TOGETHER if METHODS[name].regresses])
def test_gradients_of_regressors_in_a_group_are_those_alone(material, method):
    compare(variants(METHODS[method]), material, data=data(), model=MLP(hidden=16))


def test_gradients_of_students_without_a_teacher_in_a_group_are_those_alone(material):
    compare([], material, data=data(), model=MLP(dropout=0.3))


@pytest.mark.parametrize("augment", [Augment(), VIEWS], ids=["images", "views"])
def test_gradients_of_smoothed_labels_in_a_group_are_those_alone(material, augment):
    smooth = Optim(label_smoothing=0.2)
    of_data = data(augment=augment)
    compare([METHODS["hinton"]()], material, data=of_data, model=MLP(), optim=smooth)


def student(
    kd: Distillation | None, of_data: Data, seed: int = 3, teacher: int = 0, **settings
) -> Config:
    """A student of a method, or without a teacher."""
    model = MLP(**{name: settings.pop(name) for name in ("hidden", "dropout") if name in settings})
    if kd is not None and kd.needs_same_width:
        model.hidden = TEACHERS[teacher]
    settings |= {"data": of_data, "model": model, "seed": seed}
    if kd is None:
        return Config(stage="student", **settings)
    return Config(stage="distill", kd=kd, teacher=Teacher(seed=teacher), **settings)


MIXED = pytest.mark.parametrize("augment", [Augment(), VIEWS], ids=["images", "views"])


@pytest.mark.slow
@MIXED
def test_gradients_of_all_methods_in_one_group_are_those_alone(material, augment):
    """Two teachers of other widths, students alone among them, and three widths in one stack."""
    kinds = [None, *(METHODS[name]() for name in TOGETHER)]
    pairs = itertools.product(kinds, (0, 1))
    configs = [
        student(kd, data(augment=augment), 3 + at % 2, teacher, hidden=(16, 24, 32)[at % 3])
        for at, (kd, teacher) in enumerate(pairs)
    ]
    module = compare_all(configs, material)
    assert len(module.kinds) > len(TOGETHER)
    assert module.stack.padded


@MIXED
@pytest.mark.parametrize("kd", [None, METHODS["hinton"](), METHODS["hint"]()], ids=str)
def test_gradients_of_several_widths_in_a_group_are_those_alone(material, kd, augment):
    compare_all(
        [
            student(kd, data(augment=augment), seed, hidden=width, dropout=0.3)
            for seed in SEEDS
            for width in (16, 24, 32)
        ],
        material,
    )


@MIXED
def test_gradients_of_several_shares_of_dropout_in_a_group_are_those_alone(material, augment):
    configs = [
        student(kd, data(augment=augment), seed, dropout=share, hidden=width)
        for kd in (None, METHODS["pkt"]())
        for seed in SEEDS
        for share, width in ((0.0, 32), (0.1, 32), (0.3, 32), (0.3, 20))
    ]
    compare_all(configs, material)


@MIXED
def test_gradients_of_other_labels_in_a_group_are_those_alone(material, augment):
    configs = [
        student(kd, data(augment=augment, label_noise=noise), optim=Optim(label_smoothing=smooth))
        for kd in (None, METHODS["dkd"](), METHODS["rkd"]())
        for noise in (0.0, 0.2, 0.5)
        for smooth in (0.0, 0.2)
    ]
    compare_all(configs, material)


@pytest.mark.slow
@MIXED
@pytest.mark.parametrize("unlabelled", [False, True])
def test_gradients_on_other_images_in_a_group_are_those_alone(material, augment, unlabelled):
    """Transfer sets of equally many images, their students in lanes of their own."""
    configs = [
        student(kd, data(augment=augment, unlabelled=unlabelled, train_size=200, **which), seed)
        for kd in (None, METHODS["hinton"](), METHODS["hint"]())
        for which in ({}, {"omit": [3]}, {"omit": [4, 5]}, {"label_noise": 0.3})
        for seed in SEEDS
    ]
    if unlabelled:  # fewer of these are left where classes are omitted as well
        configs = [config for config in configs if not config.data.omit]
    compare_all(configs, material)


def test_gradients_of_other_lessons_in_a_group_are_those_alone(material):
    """What is taught of two teachers' logits, students alone among them."""
    taught = [{}, {"control": "permuted"}, {"control": "confidence"}, {"clip": 2.0}]
    configs = [student(None, data(), seed) for seed in SEEDS]
    for kd, own in itertools.product((METHODS["hinton"](), METHODS["dkd"]()), taught):
        for number, seed in itertools.product((0, 1), SEEDS):
            one = student(kd, data(), seed)
            configs.append(dataclasses.replace(one, teacher=Teacher(seed=number, **own)))
    assert len(compare_all(configs, material).of_kinds[0].outputs) == 8


@pytest.mark.slow
@MIXED
def test_gradients_on_a_bank_of_views_in_a_group_are_those_alone(material, augment):
    """With labels, without and with wrong ones; the teachers' outputs are looked up, or live."""
    of_data = {"views": "shift2", "train_size": 200, "unlabelled": True, "augment": augment}
    configs = [
        student(kd, data(**of_data, label_noise=noise), seed, dropout=0.3)
        for kd in (None, METHODS["hinton"](), METHODS["hint"]())
        for noise in (0.0, 0.3)
        for seed in SEEDS
    ]
    module = compare_all(configs, material)
    first, *_ = next(iter(module.orders))
    assert first.max() > 1200, "others than the images themselves are among them"


@MIXED
def test_gradients_of_ragged_lanes_in_a_group_are_those_alone(material, augment):
    configs = [
        student(METHODS["hinton"](T=T), data(augment=augment), seed, dropout=0.3)
        for seed, count in ((3, 2), (4, 5))
        for T in range(1, 1 + count)
    ]
    compare_all(configs, material)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_gradients_of_any_mixture_in_a_group_are_those_alone(material, number):
    rng = random.Random(number)
    augment = rng.choice([Augment(), VIEWS])
    configs = []
    for _ in range(rng.randint(2, 14)):
        kd = rng.choice([None, *(rng.choice(variants(METHODS[name])) for name in TOGETHER)])
        of_data = data(augment=augment, label_noise=rng.choice([0.0, 0.3]))
        configs.append(
            student(
                kd, of_data, rng.choice([3, 4, 5]), rng.randint(0, 1),
                optim=Optim(label_smoothing=rng.choice([0.0, 0.2])),
                hidden=rng.choice([16, 24, 32]), dropout=rng.choice([0.0, 0.1, 0.3]),
            )
        )  # fmt: skip
    compare_all(configs, material)
