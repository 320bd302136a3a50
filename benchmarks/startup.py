"""How long a user waits for ``--help`` and for the answer to a mistake, beside importing Hydra.

    python benchmarks/startup.py          # 10 pairs of each, in turn

Each command runs in a process of its own, right before ``python -c "import hydra"`` in another one.
Prints the medians of n pairs and of their ratios, with the least and the most.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "train.py --help": ["--help"],
    "a mistyped key": ["stage=distill", "kd.TT=3"],
    "a wrong value": ["stage=distill", "kd.T=0"],
    "a wrong value in a sweep": ["-m", "stage=distill", "kd.T=1,2", "kd.alpha=0,2"],
}


def seconds(*words: str) -> float:
    """Seconds of ``python …`` from start to exit."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=PROJECT, capture_output=True)
    return time.perf_counter() - started


def spread(values: list[float]) -> str:
    """Median (least–most)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=10, help="pairs of each (default: 10)")
    n = parser.parse_args().n
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {n=}")
    print("| command | s | import hydra, s | ratio |")
    print("|---|---|---|---|")
    for name, words in COMMANDS.items():
        for warm_up in (("train.py", *words), ("-c", "import hydra")):
            seconds(*warm_up)
        pairs = [(seconds("train.py", *words), seconds("-c", "import hydra")) for _ in range(n)]
        ours, theirs = zip(*pairs, strict=True)
        ratios = [mine / its for mine, its in pairs]
        print(f"| {name} | {spread(ours)} | {spread(theirs)} | {spread(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
