"""Who shares what in a stack."""

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers import config

from kd.config.schema import Config
from kd.methods.base import loss_weights_at
from kd.sweeps.layout import Kind, Numbered, Rows, draw_of, kinds_of, lane_of
from kd.training.material import Accelerator, Material

CPU = torch.device("cpu")
ROWS = [[0], [0, 0, 0], [0, 1, 2], [0, 0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0], [0, 1, 1, 0, 2]]


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("shape", [(), (4,), (3, 4)], ids=str)
def test_each_student_takes_its_row(rows, shape):
    table = torch.randn(max(rows) + 1, *shape)
    taken = Rows(rows, CPU)
    assert torch.equal(taken.take(table), torch.stack([table[row] for row in rows]))
    regular = rows in ([0], [0, 0, 0], [0, 1, 2], [0, 0, 1, 1])
    assert taken.each == (len(rows) // (max(rows) + 1) if regular else None)


def test_equal_things_have_one_number():
    number = Numbered()
    assert [number(thing) for thing in "abcab"] == [0, 1, 2, 0, 1]
    assert number.all() == ["a", "b", "c"]


def material(config: Config, wide: int = 64) -> Material:
    """What the layout looks at: teachers, and the widths that a method compares."""
    found = Material(Accelerator("cpu", CPU), None, [])  # pyright: ignore[reportArgumentType]
    if config.stage != "distill":
        return found
    widths = (config.model.hidden, wide) if config.kd.needs_hidden else None
    regression = widths if config.kd.regresses and config.model.hidden != wide else None
    return found._replace(teachers=[Path("teacher")], widths=widths, regression=regression)


def kinds(*words: str) -> list[Kind]:
    """The kinds of students that commands make."""
    configs = [config(*command.split()) for command in words]
    return kinds_of(configs, [material(config) for config in configs])


def test_students_whose_losses_differ_in_numbers_are_of_one_kind():
    (kind,) = kinds(
        "stage=distill kd.T=1",
        "stage=distill kd.T=2 kd.alpha=0 seed=5 optim.lr=1",
        "stage=distill kd.T=1 kd.warmup_epochs=3 kd.stop_epoch=4 model.hidden=7 teacher.seed=3",
    )
    assert kind.places == [0, 1, 2]
    assert [kd.T for kd in kind.methods] == kind.numbers(CPU)["T"].tolist() == [1, 2, 1]
    assert kind.numbers(CPU).keys() == {"T"}, "the schedule acts by weights of its own"
    assert kind.width is None


def test_methods_and_their_fixed_settings_make_kinds():
    found = kinds(
        "stage=distill",
        "stage=distill kd=dkd",
        "stage=distill kd.direction=reverse",
        "stage=distill kd=dkd kd.target_weight=3",
    )
    assert [kind.places for kind in found] == [[0], [1, 3], [2]]


def test_widths_make_kinds_of_a_method_that_compares_hidden_layers():
    found = kinds(
        "stage=distill kd=hint model.hidden=16",
        "stage=distill kd=hint model.hidden=64",
        "stage=distill kd=hint model.hidden=16 kd.term_weight=3",
    )
    assert [(k.places, k.width, k.regression) for k in found] == [
        ([0, 2], 16, (16, 64)),
        ([1], 64, None),
    ]


def test_students_alone_join_a_kind_that_compares_no_hidden_layers():
    found = kinds(
        "stage=student",
        "stage=distill kd=hint",
        "stage=distill kd=dkd kd.T=5 kd.warmup_epochs=2",
        "stage=distill kd.alpha=1 kd.T=9",
    )
    assert [kind.places for kind in found] == [[1], [0, 2, 3]]
    hint, dkd = found
    assert [kd.alpha for kd in hint.methods] == [0.5]
    assert [kd.alpha for kd in dkd.methods] == [1, 0.5, 1]
    for alone in dkd.methods[::2]:
        assert {loss_weights_at(alone, epochs / 4) for epochs in range(40)} == {(1, 0)}
    assert dkd.numbers(CPU)["T"].tolist()[1] == 5


def test_students_alone_are_a_kind_where_none_fits():
    found = kinds("stage=student", "stage=distill kd=hint", "stage=student seed=4")
    assert [(kind.kd and kind.kd.method, kind.places) for kind in found] == [
        ("hint", [1]),
        (None, [0, 2]),
    ]
    assert found[1].numbers(CPU) == {}


def test_who_shares_images():
    one = config("stage=student", "seed=3")
    same = ("kd.T=3", "model.hidden=7", "model.dropout=0", "optim.lr=1", "data.label_noise=0.2")
    for word in same:
        assert lane_of(config("stage=student", "seed=3", word)) == lane_of(one)
    for word in ("seed=4", "data.train_size=100", "data.omit=[3]", "data.augment.shift=1"):
        assert lane_of(config("stage=student", "seed=3", word)) != lane_of(one)
    noisy = [
        config("stage=student", "data.augment.mixup=1", f"data.label_noise={n}") for n in (0, 0.2)
    ]
    assert lane_of(noisy[0]) != lane_of(noisy[1]), "views mix the labels"


def test_who_shares_dropout_masks():
    one = config("stage=student", "seed=3")
    for word in ("kd.T=3", "optim.lr=1", "data.label_noise=0.2", "model.dropout=0.2"):
        assert draw_of(config("stage=student", "seed=3", word)) == draw_of(one)
    for word in ("seed=4", "model.hidden=7"):
        assert draw_of(config("stage=student", "seed=3", word)) != draw_of(one)


def test_a_kind_leaves_its_methods_as_they_were():
    configs = [config("stage=distill", "kd.T=3"), config("stage=student")]
    before = dataclasses.asdict(configs[0].kd)
    kinds_of(configs, [material(config) for config in configs])
    assert dataclasses.asdict(configs[0].kd) == before
