"""What a search costs, and what it finds: hydra/sweeper=search against other ways to search.

    python benchmarks/search.py speed     # 200 trials: together, one by one, as tutorials do
    python benchmarks/search.py halving   # the same search with search.halving=3
    python benchmarks/search.py samplers  # random, TPE and a grid with as many students

Trials vary T, alpha, learning rate, weight decay and dropout; each has ten epochs of batch 128 on
the real images. Every measurement is of processes of its own, start-up included, in turn. What a
search finds is the validation accuracy of its choice on five fresh seeds. Times are medians of n
measurements with the least and the most.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

import torch
from settings import one_by_one
from sweep import spread, train_py, tutorial_cells

from kd.files import PROJECT
from kd.search import read_search
from kd.training.run_folder import read_metrics, read_study

SPACE = (
    "kd.T=tag(log,interval(1,64))",
    "kd.alpha=interval(0,1)",
    "optim.lr=tag(log,interval(1e-3,3e-2))",
    "optim.weight_decay=tag(log,interval(1e-6,1e-3))",
    "model.dropout=interval(0,0.5)",
)
GRID = {
    "kd.T": "1,2.8,8,23,64",
    "kd.alpha": "0,0.33,0.67,1",
    "optim.lr": "1e-3,2.3e-3,5.5e-3,0.013,0.03",
}
GRID |= {"model.dropout": "0,0.5"}
CELLS = [(1.5, 0.3), (4.0, 0.6), (8.0, 0.1)]  # of the tutorial
SEEDS = 5


def seconds(outputs: Path, *words: str) -> float:
    """Seconds of a command that distils the study's teacher."""
    command = [sys.executable, str(PROJECT / "train.py"), "-m", "stage=distill", *words]
    started = time.perf_counter()
    subprocess.run(
        [*command, f"output_dir={outputs}", "logger=[]"],
        check=True,
        capture_output=True,
        cwd=PROJECT,
    )
    return time.perf_counter() - started


class Trial:
    """A search in a study of its own.

    Args:
        outputs: with the teacher in its study ``main``.
        name: of the study.
        words: of the search.
    """

    def __init__(self, outputs: Path, name: str, *words: str) -> None:
        self.outputs, self.folder = outputs, outputs / name
        (teacher,) = (outputs / "main/teacher").iterdir()
        place = f'teacher.checkpoint="{teacher}"'
        self.words = ("hydra/sweeper=search", *SPACE, *words, f"study={name}", place)

    def seconds(self) -> float:
        """How long the search alone takes."""
        return seconds(self.outputs, *self.words, "search.confirm=0", "overwrite=true")

    def finds(self) -> float:
        """The validation accuracy of its choice on fresh seeds, in %."""
        seconds(self.outputs, *self.words, f"search.confirm={SEEDS}")
        search = read_search(self.folder)
        found = [read_metrics(self.folder / run) for run in (search.confirmed if search else [])]
        return 100 * fmean(metrics["val/acc"] for metrics in found if metrics)


def speed(n: int, outputs: Path, trials: int) -> None:
    """Print the times of a search, of its trials one by one, and of tutorials' way."""
    tutorial = trials / len(CELLS) * tutorial_cells(outputs, CELLS)
    search = Trial(outputs, "speed", f"search.trials={trials}", "search.batch=100")
    pairs = []
    for _ in range(n):
        pairs.append((search.seconds(), one_by_one(PROJECT, outputs, trials, swept=4)))
        print("together {:.1f} s, one by one {:.1f} s".format(*pairs[-1]), flush=True)
    mine, alone = zip(*pairs, strict=True)
    print("| | s | times together |\n|---|---|---|")
    print(f"| a search of {trials} trials | {spread(mine, 1)} | 1 |")
    ratios = [its / my for my, its in pairs]
    print(f"| one by one (from 5 runs) | {spread(alone, 1)} | {spread(ratios, 1)} |")
    ratios = [tutorial / my for my in mine]
    print(f"| plain PyTorch, DataLoader (from 3) | {tutorial:.0f} | {spread(ratios, 1)} |")


def halving(n: int, outputs: Path, trials: int) -> None:
    """Print times and findings of a search with halving and without."""
    rows = []
    for number in range(n):
        shared = f"search.trials={trials}", f"search.seed={number}"
        whole = Trial(outputs, f"whole{number}", *shared, "search.batch=100")
        halved = Trial(
            outputs, f"halved{number}", *shared, f"search.batch={trials}", "search.halving=3"
        )
        times = whole.seconds(), halved.seconds()
        rows.append((*times, whole.finds(), halved.finds()))
        print("{:.1f} s and {:.1f} s halved, {:.2f} % and {:.2f} %".format(*rows[-1]), flush=True)
    shares = [row[1] / row[0] for row in rows]
    losses = [row[2] - row[3] for row in rows]
    print(f"share of the time {spread(shares, 2)}, points less {spread(losses, 2)}")


def samplers(n: int, outputs: Path, trials: int) -> None:
    """Print what random proposals, TPE and a grid find."""
    found: dict[str, list[float]] = {"random": [], "tpe": [], "grid": []}
    for number in range(n):
        for name in ("random", "tpe"):
            words = f"search.sampler={name}", f"search.trials={trials}", f"search.seed={number}"
            found[name].append(Trial(outputs, f"{name}{number}", *words).finds())
            print(f"{name} {found[name][-1]:.2f} %", flush=True)
    words = [f"{key}={values}" for key, values in GRID.items()]
    (teacher,) = (outputs / "main/teacher").iterdir()
    shared = ("study=grid", f'teacher.checkpoint="{teacher}"')
    seconds(outputs, *words, *shared)
    rows = [row for row in read_study(outputs / "grid") if row["kd/alpha"] < 1]
    best = max(rows, key=lambda row: row["val/acc"])
    own = [f"{key}={best[key.replace('.', '/')]}" for key in GRID]
    fresh = range(1, 1 + SEEDS)
    seconds(outputs, *own, f"seed={','.join(map(str, fresh))}", *shared)
    tags = [key.replace(".", "/") for key in GRID]
    same = [r for r in read_study(outputs / "grid") if all(r[tag] == best[tag] for tag in tags)]
    found["grid"].append(100 * fmean(r["val/acc"] for r in same if r["seed"] in fresh))
    for name, values in found.items():
        print(f"| {name} | {spread(values, 2)} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"speed": speed, "halving": halving, "samplers": samplers}
    parser.add_argument("part", choices=parts)
    parser.add_argument("-n", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--trials", type=int, default=200)
    given = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, n = {given.n}"
    )
    with tempfile.TemporaryDirectory() as folder:
        train_py(Path(folder), "stage=teacher")
        parts[given.part](given.n, Path(folder), given.trials)


if __name__ == "__main__":
    main()
