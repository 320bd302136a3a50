"""Which jobs of a sweep train together."""

import itertools

import pytest
from hydra import compose, initialize_config_dir

from kd import grouping
from kd.config import PROJECT, Config, validate


def config(*words: str) -> Config:
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return validate(compose("config", overrides=list(words)))


def grid(seeds, temperatures, *words: str) -> list[Config]:
    return [
        config("stage=distill", f"kd.T={T}", f"seed={seed}", *words)
        for seed in seeds
        for T in temperatures
    ]


def test_groups_have_all_but_seed_and_numbers_in_common():
    configs = [
        *grid([0, 1], [1, 2]),
        *grid([0, 1], [1, 2], "kd.direction=reverse"),
        *grid([0], [1, 2], "model.hidden=16"),
        config("stage=distill", "optim.lr=0.1"),
        config("stage=student"),
        config("stage=student", "seed=5"),
        config("stage=student", "study=other"),
    ]
    groups, alone = grouping.plan(configs)
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [11, 12]]
    assert alone.keys() == {10, 13}


def test_ragged_sweeps_are_cut_into_grids():
    configs = [*grid([0, 1], [1, 2, 3]), *grid([2], [1, 2])]
    groups, alone = grouping.plan(configs)
    assert groups == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert not alone


@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 7, 24])
def test_groups_fit_in_memory(most, monkeypatch):
    monkeypatch.setattr(grouping, "student_bytes", lambda _: 2**20)
    configs = grid([0, 1, 2, 3], [1, 2, 3, 4, 5, 6], f"trainer.group_mb={most}")
    groups, alone = grouping.plan(configs)
    assert sorted([*itertools.chain(*groups), *alone]) == list(range(24))
    sizes = [len(group) for group in groups]
    assert all(size <= most for size in sizes)
    assert len(sizes) <= 2 * 24 / most, "no more groups than needed, about"
    for group in groups:
        seeds = {configs[i].seed for i in group}
        cells = {configs[i].kd.T for i in group}
        assert len(seeds) * len(cells) == len(group)
