"""What tasks of one machine save by sharing images and the teacher's outputs.

    python benchmarks/mapped.py                 # 3 rounds with 4 of joblib's processes
    python benchmarks/mapped.py -n 5 --kd hint  # hidden representations are compared too

In each round fresh processes begin at once, with one thread each, and prepare MNIST and what a
teacher makes of it as a task does, each its own or sharing: first with nothing prepared, then with
what these have left, in the study alone or on the machine too. Imports before that are not timed.
Prints medians (least-most) over the rounds: the seconds until the last process is ready, the
processor's seconds of all of them, and megabytes per process beyond what it had before, all being
ready: resident, and its share of these (PSS).
"""

import argparse
import contextlib
import importlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from joblib.externals.loky import ProcessPoolExecutor

from kd.config.composing import compose_words, composing
from kd.config.validation import validate
from kd.data.mapped import among_tasks
from kd.files import PROJECT
from kd.training.kept_outputs import FOLDER

KINDS = ("each its own, first", "each its own, later", "shared, first", "shared, later")


class Found(NamedTuple):
    """What one process has measured."""

    seconds: float
    cpu: float
    resident: float
    share: float


def memory() -> tuple[float, float]:
    """Megabytes that are resident, and this process's share of them."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    told = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines}
    return told["Rss:"], told["Pss:"]


def together(folder: Path, point: str, count: int) -> None:
    """Wait until so many processes have come to this point."""
    (folder / f"{point}-{os.getpid()}").touch()
    while sum(1 for _ in folder.glob(f"{point}-*")) < count:
        time.sleep(0.005)


def prepare(words: list[str], shares: bool, folder: Path, count: int) -> Found:
    """Do what a task does before it trains."""
    importlib.import_module("kd.sweeps.group")
    from kd.training import material
    from kd.training.threads import use_threads

    use_threads(1)
    with composing():
        config = validate(compose_words(words))
    together(folder, "imported", count)
    before, started, spent = memory(), time.perf_counter(), time.process_time()
    with among_tasks() if shares else contextlib.nullcontext():
        held = material.prepare(config)
    seconds, cpu = time.perf_counter() - started, time.process_time() - spent
    together(folder, "ready", count)
    resident, share = (now - then for now, then in zip(memory(), before, strict=True))
    together(folder, "measured", count)
    assert held.teacher_outputs
    return Found(seconds, cpu, resident, share)


def one_round(words: list[str], outputs: Path, count: int) -> list[list[Found]]:
    """Measure each kind once."""
    found = []
    with tempfile.TemporaryDirectory() as machine:
        for kind in KINDS:
            if kind.endswith("first"):
                shutil.rmtree(outputs / "main" / FOLDER, ignore_errors=True)
            with tempfile.TemporaryDirectory() as points:
                environment = {"TMPDIR": machine, "CUDA_VISIBLE_DEVICES": ""}
                executor = ProcessPoolExecutor(count, env=environment)
                given = words, kind.startswith("shared"), Path(points), count
                sent = [executor.submit(prepare, *given) for _ in range(count)]
                found.append([each.result() for each in sent])
                executor.shutdown()
    return found


def spread(values: list[float], digits: int) -> str:
    """Median (least-most)."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--workers", type=int, default=4, help="processes (default: 4)")
    parser.add_argument("--kd", default="hinton", help="the method (default: hinton)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "outputs")
        shared = [f"output_dir={outputs}", "trainer.max_epochs=1"]
        teacher = [sys.executable, str(PROJECT / "train.py"), "stage=teacher", *shared]
        subprocess.run(teacher, check=True, capture_output=True, cwd=PROJECT)
        words = ["stage=distill", f"kd={given.kd}", *shared]
        rounds = [one_round(words, outputs, given.workers) for _ in range(given.n)]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {given.workers} processes, kd={given.kd}, "
        f"n = {given.n} rounds"
    )
    print("| | ready after, s | processor, s | resident, MB | PSS, MB |\n|---|---|---|---|---|")
    for kind, of_kind in zip(KINDS, zip(*rounds, strict=True), strict=True):
        ready = [max(each.seconds for each in found) for found in of_kind]
        cpu = [sum(each.cpu for each in found) for found in of_kind]
        resident = [each.resident for found in of_kind for each in found]
        share = [each.share for found in of_kind for each in found]
        figures = spread(ready, 2), spread(cpu, 2), spread(resident, 0), spread(share, 0)
        print(f"| {kind} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
