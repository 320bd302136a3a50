"""What a sweep over the student's own numbers costs: together, one by one, as tutorials do.

    python benchmarks/settings.py random  # 200 random settings of T, alpha, lr, decay and dropout
    python benchmarks/settings.py widths  # widths of 8 to 512 at three temperatures

Ten epochs of batch 128 on the real images, each measurement in processes of its own, start-up
included. One by one is ``hydra/launcher=basic``: measured over some runs, the rest at the same cost
per run. Another checkout may do it: ``--before FOLDER``. Times are medians of n measurements with
the least and the most.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sweep import ONE_BY_ONE, spread, train_py, tutorial_cells

from kd.files import PROJECT

SETTINGS = 200
WIDTHS = "model.hidden=8,16,32,64,128,256,512"
TEMPERATURES = "kd.T=1,4,8"
TOGETHER = """
import json, sys
from hydra.core.global_hydra import GlobalHydra
from kd._startup import importing
from kd.config.composing import compose_words, composing
from kd.sweeps.job_configs import compose_jobs, copying
with composing():
    loader = copying(GlobalHydra.instance().config_loader())
    jobs = compose_jobs(loader, compose_words([]), json.load(sys.stdin))
    with importing():
        from kd.sweeps.launcher import launch
    launch(jobs)
"""


def random_words(count: int, outputs: Path) -> list[list[str]]:
    """The words of each of so many settings, the same ones every time."""
    draw = random.Random(0)
    ranges = {
        "kd.T": lambda: draw.uniform(1, 10),
        "kd.alpha": lambda: draw.uniform(0, 0.9),
        "optim.lr": lambda: 10 ** draw.uniform(-3, -1.5),
        "optim.weight_decay": lambda: 10 ** draw.uniform(-6, -3),
        "model.dropout": lambda: draw.uniform(0, 0.5),
    }
    shared = ["stage=distill", f"output_dir={outputs}", "overwrite=true"]
    return [
        [*shared, *(f"{key}={value():.5f}" for key, value in ranges.items())] for _ in range(count)
    ]


def together(words: list[list[str]]) -> float:
    """Seconds of one process that trains all of these jobs together."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", TOGETHER],
        input=json.dumps(words),
        text=True,
        check=True,
        capture_output=True,
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    return time.perf_counter() - started


def one_by_one(project: Path, outputs: Path, runs: int, swept: int) -> float:
    """Seconds of so many runs one after another, at the cost of some of them beside one.

    Args:
        project: the checkout that trains them.
        outputs: with the teacher.
        runs: how many.
        swept: how many are really trained.
    """
    shared = ("-m", "stage=distill", f"output_dir={outputs}", "overwrite=true", ONE_BY_ONE)

    def seconds(count: int) -> float:
        swept = f"kd.T={','.join(str(1.5 + k) for k in range(count))}"
        command = [sys.executable, str(project / "train.py"), *shared, swept]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=project)
        return time.perf_counter() - started

    first, more = seconds(1), seconds(1 + swept)
    return first + (runs - 1) * (more - first) / swept


def report(rows: list[tuple[str, list[float], list[float]]]) -> None:
    """Print a table of names, seconds, and times the first row."""
    print("| | s | times together |\n|---|---|---|")
    for name, seconds, ratios in rows:
        print(f"| {name} | {spread(seconds, 1)} | {spread(ratios, 1)} |")


def against(
    name: str, n: int, both: Callable[[], tuple[float, float]], tutorial: float | None = None
) -> None:
    """Measure pairs of ``both()``, seconds together and one by one, and print them."""
    pairs = []
    for _ in range(n):
        pairs.append(both())
        print("together {:.1f} s, one by one {:.1f} s".format(*pairs[-1]), flush=True)
    mine, alone = ([pair[side] for pair in pairs] for side in (0, 1))
    rows = [(f"{name}, together", mine, [1.0])]
    rows.append(("one by one", alone, [a / m for a, m in zip(alone, mine, strict=True)]))
    if tutorial is not None:
        ratios = [tutorial / seconds for seconds in mine]
        rows.append(("plain PyTorch with a DataLoader, from 3 trials", [tutorial], ratios))
    report(rows)


def random_settings(n: int, before: Path) -> None:
    """200 random settings."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        train_py(outputs, "stage=teacher")
        words = random_words(SETTINGS, outputs)
        tutorial = SETTINGS / 3 * tutorial_cells(outputs, [(1.5, 0.3), (4.0, 0.6), (8.0, 0.1)])

        def both() -> tuple[float, float]:
            return together(words), one_by_one(before, outputs, SETTINGS, swept=4)

        against(f"{SETTINGS} random settings", n, both, tutorial)


def widths(n: int, before: Path) -> None:
    """Seven widths at three temperatures, all of them really trained one by one."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        train_py(outputs, "stage=teacher")
        words = ("-m", "stage=distill", WIDTHS, TEMPERATURES, f"output_dir={outputs}")

        def seconds(project: Path, *more: str) -> float:
            command = [sys.executable, str(project / "train.py"), *words, "overwrite=true", *more]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=project)
            return time.perf_counter() - started

        against("21 students", n, lambda: (seconds(PROJECT), seconds(before, ONE_BY_ONE)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"random": random_settings, "widths": widths}
    parser.add_argument("part", choices=parts)
    parser.add_argument("-n", type=int, default=5, help="pairs (default: 5)")
    parser.add_argument("--before", type=Path, default=PROJECT, help="checkout for one by one")
    given = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, n = {given.n}"
    )
    parts[given.part](given.n, given.before)


if __name__ == "__main__":
    main()
