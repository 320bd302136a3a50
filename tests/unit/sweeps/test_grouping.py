"""Which jobs of a sweep train together."""

import dataclasses
import itertools
from pathlib import Path

import pytest
from helpers import as_job, config

from kd.config.schema import Config
from kd.models.base import MNIST
from kd.sweeps import grouping


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


def test_groups_have_all_but_seed_and_numbers_in_common():
    configs = [
        *grid([0, 1], [1, 2]),
        *grid([0, 1], [1, 2], "kd.direction=reverse"),
        *grid([0], [1, 2], "model.hidden=16"),
        config("stage=distill", "optim.lr=0.1"),
        config("stage=student", "optim.eps=1e-7"),
        config("stage=student", "seed=5", "optim.eps=1e-7"),
        config("stage=student", "study=other"),
    ]
    groups, alone = planned(configs)
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [11, 12]]
    assert alone.keys() == {10, 13}


def test_a_student_alone_joins_the_distillation_of_its_settings():
    """There it is the student at alpha = 1, whatever the temperature: one network for all."""
    configs = [
        *(config("stage=student", f"seed={seed}") for seed in (0, 1)),
        *grid([0, 1], [1, 2]),
        *grid([0, 1], [1, 2], "kd.alpha=1"),
        config("stage=student", "model.dropout=0"),
    ]
    groups, alone = planned(configs)
    (found,) = planned.groups
    assert sorted(groups[0]) == list(range(10))
    assert len(found.planned.cells) == 3
    assert found.lead.config.stage == "distill"
    assert alone.keys() == {10}
    students_only, _ = planned(configs, missing=[0, 1])
    assert students_only == [[0, 1]], "no teacher is needed where no distillation is to be trained"


def test_an_unfinished_group_is_taken_up_as_it_was():
    """What is left of a sweep would be cut otherwise, and rounding depends on a group's size."""
    configs = grid(range(13), [1], "trainer.group_mb=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "student_bytes", lambda *_: 2**20)
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


def test_ragged_sweeps_are_cut_into_grids():
    configs = [*grid([0, 1], [1, 2, 3]), *grid([2], [1, 2])]
    groups, alone = planned(configs)
    assert groups == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert not alone


@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 7, 24])
def test_groups_fit_in_memory(most, monkeypatch):
    monkeypatch.setattr(grouping, "student_bytes", lambda *_: 2**20)
    configs = grid([0, 1, 2, 3], [1, 2, 3, 4, 5, 6], f"trainer.group_mb={most}")
    groups, alone = planned(configs)
    assert sorted([*itertools.chain(*groups), *alone]) == list(range(24))
    sizes = [len(group) for group in groups]
    assert all(size <= most for size in sizes)
    assert len(sizes) <= 2 * 24 / most, "no more groups than needed, about"
    for group in groups:
        seeds = {configs[i].seed for i in group}
        cells = {configs[i].kd.T for i in group}
        assert len(seeds) * len(cells) == len(group)
