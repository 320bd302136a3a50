"""Seconds of the README's commands, quiet and beside a neighbour that keeps cores busy.

    python benchmarks/contention.py                  # 3 pairs of sweep, student and teacher
    python benchmarks/contention.py sweep -n 5       # one of them

Each pair is one command quiet, then the same beside the neighbour, which it starts itself; start-up
is included. Prints medians (least–most) and the ratio, taken pair by pair.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from kd.files import PROJECT

WORDS = {
    "sweep": ("-m", "stage=distill", "kd.T=1,2,5,10", "kd.alpha=0,0.25,0.5,0.75,1"),
    "student": ("stage=student",),
    "teacher": ("stage=teacher", "study=another"),
}


@contextmanager
def neighbours(count: int) -> Generator[None]:
    """Keep so many cores busy."""
    spinning = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(spinning) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(outputs: Path, *words: str) -> float:
    """Of ``python train.py …`` from start to exit."""
    command = [sys.executable, str(PROJECT / "train.py"), *words, f"output_dir={outputs}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=PROJECT)
    return time.perf_counter() - started


def spread(values: list[float], digits: int = 1) -> str:
    """Median (least–most)."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(WORDS)} (default: all)")
    parser.add_argument("-n", type=int, default=3, help="pairs (default: 3)")
    parser.add_argument("--busy", type=int, default=1, help="cores to keep busy (default: 1)")
    parser.add_argument("--epochs", type=int, default=10, help="of each training (default: 10)")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(WORDS):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(WORDS)}")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {given.busy} kept busy, torch "
        f"{torch.__version__} with {torch.get_num_threads()} threads, n = {given.n} pairs"
    )
    print("| | quiet, s | beside the neighbour, s | ratio |\n|---|---|---|---|")
    epochs = f"trainer.max_epochs={given.epochs}"
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        seconds(outputs, "stage=teacher")
        for part in given.parts or WORDS:
            quiet, beside = [], []
            for _ in range(given.n):
                words = (*WORDS[part], epochs, "overwrite=true")
                quiet.append(seconds(outputs, *words))
                with neighbours(given.busy):
                    beside.append(seconds(outputs, *words))
            ratios = [b / q for q, b in zip(quiet, beside, strict=True)]
            print(
                f"| {part} | {spread(quiet)} | {spread(beside)} | {spread(ratios, 2)} |", flush=True
            )


if __name__ == "__main__":
    main()
