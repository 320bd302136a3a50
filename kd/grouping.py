"""Which jobs of a sweep train together: those that differ in seed and numbers of ``kd`` alone."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kd.config import PLACES, Config, flatten, relevant
from kd.data import EVAL_BATCH
from kd.models import CLASSES, build_model, count_parameters

# Why the jobs of other networks run one by one: convolutions in a stack are grouped convolutions,
# which take a CPU longer than one network after another. benchmarks/sweep.py teachers measures it.
FUSABLE_MODEL = "mlp"

Cell = tuple[tuple[str, float | None], ...]


def cell_of(config: Config) -> Cell:
    """The numbers of a student's method, as (name, value); none without a teacher.

    At alpha = 1 the others play no part. There they are the defaults, so that jobs which differ in
    them alone share one student, and have its results to the last bit.
    """
    if config.stage != "distill":
        return ()
    kd = config.kd if config.kd.alpha < 1 else type(config.kd)(alpha=1.0)
    names = [field.name for field in dataclasses.fields(kd) if field.type is not str]
    return tuple((name, getattr(kd, name)) for name in names)


def plan(
    configs: Sequence[Config], unfinished: bool = False
) -> tuple[list[list[int]], dict[int, str]]:
    """Which jobs of a sweep train together.

    Args:
        configs: of the jobs that are to be trained.
        unfinished: whether an earlier attempt left a group unfinished. A job without company may
            then be the last one missing of it, and makes a group by itself.

    Returns:
        groups of indices into ``configs``, each the full grid of some seeds and cells that fits in
        ``trainer.group_mb``; and, by index, why the others train alone.
    """
    kin: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        places = {key: value for key, value in flatten(config).items() if key in PLACES}
        kin.setdefault(json.dumps(in_common(config) | places), []).append(index)
    groups: list[list[int]] = []
    alone: dict[int, str] = {}
    least = 1 if unfinished else 2
    for indices in kin.values():
        config = configs[indices[0]]
        reason = None
        if config.model.name != FUSABLE_MODEL:
            reason = f"model={config.model.name} is no faster in a stack"
        elif config.keep_epochs:
            reason = "keep_epochs=true keeps more than a group's file has"
        if reason:
            alone |= dict.fromkeys(indices, reason)
            continue
        jobs: dict[tuple[int, Cell], list[int]] = {}
        for index in indices:
            jobs.setdefault((configs[index].seed, cell_of(configs[index])), []).append(index)
        for seeds, cells in _grids(jobs, student_bytes(config), config.trainer.group_mb * 2**20):
            members = [job for seed in seeds for cell in cells for job in jobs[seed, cell]]
            if len(members) >= least:
                groups.append(members)
            elif len(jobs) == 1:
                alone[members[0]] = "no other job differs in seed and numbers of kd alone"
            else:
                alone[members[0]] = (
                    f"trainer.group_mb={config.trainer.group_mb} has no room for two"
                )
    return groups, alone


def in_common(config: Config) -> dict[str, Any]:
    """The settings that students must have in common to train together."""
    own = {"seed"} | {f"kd.{name}" for name, _ in cell_of(config)}
    return {key: value for key, value in relevant(config).items() if key not in own}


def _grids(
    jobs: Iterable[tuple[int, Cell]], each: int, limit: int
) -> Iterator[tuple[Sequence[int], Sequence[Cell]]]:
    """Cover the (seed, cell) pairs with full grids of at most ``limit`` bytes, ``each`` a pair."""
    cells_of: dict[int, list[Cell]] = {}
    for seed, cell in jobs:
        cells_of.setdefault(seed, []).append(cell)
    seeds_of: dict[tuple[Cell, ...], list[int]] = {}
    for seed, cells in cells_of.items():
        seeds_of.setdefault(tuple(sorted(cells, key=repr)), []).append(seed)
    most = max(1, limit // each)
    for cells, seeds in seeds_of.items():
        for some_cells in _parts(cells, most):
            for some_seeds in _parts(seeds, max(1, most // len(some_cells))):
                yield some_seeds, some_cells


def _parts(items: Sequence, most: int) -> Iterator[Sequence]:
    """Split into as few parts as possible, of about equal length."""
    count = -(-len(items) // most)
    for part in range(count):
        yield items[part * len(items) // count : (part + 1) * len(items) // count]


def student_bytes(config: Config) -> int:
    """About how much memory a student of a group takes, in bytes."""
    parameters = count_parameters(build_model(config.model, seed=0))
    # weights, gradient, Adam's two moments, the weights kept, and those of a group's file
    values = 6 * parameters
    batch = config.data.batch_size * (1 + config.data.augment.extra)
    values += max(batch, EVAL_BATCH) * (4 * config.model.hidden + 8 * CLASSES)
    if config.stage == "distill":
        values += config.kd.cubes * batch**3
    return 4 * values
