"""Which jobs of a sweep train together."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from helpers import DIGITS, as_job, config

from kd.config.schema import Config
from kd.models.base import MNIST
from kd.sweeps import grouping
from kd.sweeps.layout import lane_of
from kd.sweeps.students import config_of


@pytest.fixture(autouse=True)
def task(monkeypatch):
    """No images are looked for."""
    monkeypatch.setattr(grouping, "task_of", lambda _: MNIST)


def grid(seeds, temperatures, *words: str) -> list[Config]:
    base = config("stage=distill", *words)
    return [
        dataclasses.replace(base, seed=seed, kd=dataclasses.replace(base.kd, T=float(T)))
        for seed in seeds
        for T in temperatures
    ]


def planned(configs: list[Config], missing=None, earlier=()) -> tuple[list[list[int]], dict]:
    """The members of each group, and why the others train alone."""
    jobs = [as_job(config, str(number)) for number, config in enumerate(configs)]
    wanted = jobs if missing is None else [jobs[number] for number in missing]
    groups, alone = grouping.plan_groups(jobs, wanted, dict(earlier))
    planned.groups = groups
    members = [[jobs.index(job) for job in group.members] for group in groups]
    return members, {jobs.index(job): reason for job, reason in alone.items()}


def test_students_of_a_group_differ_in_settings_of_their_own():
    mini = ("data=mnist_mini", f"data.dir={DIGITS}")
    configs = [
        *grid([0, 1], [1, 2], *mini),
        *grid([0, 1], [1, 2], *mini, "kd.direction=reverse"),
        *grid([0], [1, 2], *mini, "model.hidden=16", "teacher.seed=3"),
        config("stage=distill", *mini, "kd=hint", "optim.lr=0.1", "optim.schedule=onecycle"),
        config("stage=distill", *mini, "teacher.checkpoint=a.ckpt", "optim.weight_decay=0.1"),
        config("stage=student", *mini, "optim.eps=1e-7", "optim.betas=[0.5,0.9]"),
        config("stage=student", *mini, "seed=5", "model.dropout=0", "trainer.max_epochs=3"),
        config("stage=student", *mini, "data.label_noise=0.2", "optim.label_smoothing=0.1"),
        config("stage=student", *mini, "checkpoint=best", "trainer.patience=3"),
    ]
    groups, apart = planned(configs)
    assert list(map(sorted, groups)) == [list(range(len(configs)))]
    assert not apart


APART = [
    *("study=other", "optim=adamw", "data.batch_size=64", "data.seed=1", "trainer.limit_batches=7"),
    *("data.augment.shift=1", "trainer.group_mb=100", "data.train_size=300", "data.omit=[3]"),
    "data.val_size=100",
]


@pytest.mark.parametrize("word", APART)
def test_groups_have_the_other_settings_in_common(word):
    mini = ("stage=student", "data=mnist_mini", f"data.dir={DIGITS}")
    pair = [config(*mini, f"seed={seed}") for seed in (0, 1)]
    others = [config(*mini, f"seed={seed}", word) for seed in (0, 1)]
    assert planned([*pair, *others]) == ([[0, 1], [2, 3]], {})


def test_transfer_sets_with_equally_many_images_are_of_one_group():
    mini = ("stage=student", "data=mnist_mini", f"data.dir={DIGITS}", "data.train_size=60")
    words = "data.omit=[3]", "data.omit=[4,5]", "data.omit=[3]", "data.train_size=50"
    configs = [
        config(*mini, f"seed={n}", *((word,) if word else ())) for n, word in enumerate(words)
    ]
    assert planned(configs)[0] == [[0, 1, 2]]


def test_widths_far_apart_are_of_different_groups():
    widths = 8, "[400]", 16, 64, 65, 800
    configs = [config("stage=student", f"model.hidden={width}") for width in widths]
    groups, apart = planned(configs)
    assert sorted(map(sorted, groups)) == [[0, 2, 3], [1, 4]]
    assert apart == {5: "no other job's model.hidden is near enough to its own"}


def test_a_student_alone_joins_the_distillation_of_its_settings():
    """There it is the student at alpha = 1, whatever the temperature: one network for all."""
    configs = [
        *(config("stage=student", f"seed={seed}") for seed in (0, 1)),
        *grid([0, 1], [1, 2]),
        *grid([0, 1], [1, 2], "kd.alpha=1"),
    ]
    groups, alone = planned(configs)
    (found,) = planned.groups
    assert sorted(groups[0]) == list(range(10))
    assert len(found.planned.students) == 2 * 3
    assert not alone
    students_only, _ = planned(configs, missing=[0, 1])
    assert students_only == [[0, 1]], "no teacher is needed where no distillation is to be trained"


def test_an_unfinished_group_is_taken_up_as_it_was():
    """What is left of a sweep would be cut otherwise, and rounding depends on a group's size."""
    configs = grid(range(11), [1], "trainer.group_mb=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "bytes_of_each", lambda configs, _: [2**20] * len(configs))
        whole, _ = planned(configs)
        listed = [group.planned for group in planned.groups]
        began = {Path("outputs/main"): listed}
        left = [index for group in whole[1:] for index in group]
        assert planned(configs, left)[0] != whole[1:]
        assert planned(configs, left, began)[0] == whole[1:]
        assert planned(configs, left[1:], began)[0] == [whole[1][1:], *whole[2:]]
        elsewhere = {Path("outputs/other"): listed}
        assert planned(configs, left, elsewhere)[0] == planned(configs, left)[0]
        anew = [dataclasses.replace(config, overwrite=True) for config in configs]
        assert planned(anew, left, began)[0] == planned(configs, left)[0]


def test_a_ragged_sweep_is_one_group():
    configs = [*grid([0, 1], [1, 2, 3]), *grid([2], [1, 2])]
    assert planned(configs) == ([list(range(8))], {})


@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 7, 24])
def test_groups_fit_in_memory(most, monkeypatch):
    monkeypatch.setattr(grouping, "bytes_of_each", lambda configs, _: [2**20] * len(configs))
    configs = grid([0, 1, 2, 3], [1, 2, 3, 4, 5, 6], f"trainer.group_mb={most}")
    groups, alone = planned(configs)
    assert sorted([*itertools.chain(*groups), *alone]) == list(range(24))
    sizes = [len(group) for group in groups] + [1] * len(alone)
    assert len(sizes) == math.ceil(24 / most), "as few as possible"
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1, "about equally large"
    for group in groups:  # students of a seed share images: they are not torn apart needlessly
        seeds = [configs[i].seed for i in group]
        assert len(set(seeds)) <= 1 + math.ceil((len(group) - 1) / 6)


def test_students_of_a_lane_stand_side_by_side():
    words = [("model.dropout=0.2",), ("model.hidden=64",), ("data.label_noise=0.3",), ()]
    configs = [config("stage=student", f"seed={n}", *w) for w in words for n in (1, 0)]
    planned(configs)
    (group,) = planned.groups
    lanes = [lane_of(config_of(s, group.lead.config)) for s in group.planned.students]
    assert [len(list(same)) for _, same in itertools.groupby(lanes)] == [4, 4]
