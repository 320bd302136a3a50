"""What large sweeps cost beside the training: time, memory, files and bytes.

    python benchmarks/growth.py plan                              # of 100,000 students
    python benchmarks/growth.py store                             # their files, and the tables
    python benchmarks/growth.py report
    python benchmarks/growth.py report -T 1000 -a 10 -s 10        # of 10,000 cells
    python benchmarks/growth.py report -T 10 -a 10 -s 10 -r 100   # of 100 learning rates

Training is made up, the store is the real one, and so is the teacher, on tests/mnist_mini. Each
measurement is a process of its own, start-up included. Figures are medians of n measurements with
the least and the most.
"""

import argparse
import itertools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sweep import spread, train_py

from kd.files import PROJECT
from kd.training import pack_writing, packs

WORDS = ("data=mnist_mini", "model.hidden=1", "trainer.max_epochs=2")  # 3 kB of weights a student
PACK = 1000  # runs


@dataclass
class Sweep:
    """The size of a sweep: students alone and distilled."""

    temperatures: int
    alphas: int
    seeds: int
    rates: int = 1
    epochs: int = 10

    def __len__(self) -> int:
        """How many students it has."""
        return self.rates * self.seeds * (1 + self.temperatures * self.alphas)

    def jobs(self, stage: str) -> Iterator[dict[str, Any]]:
        """The settings of every student, those of one seed side by side as in a sweep."""
        axes: dict[str, list[Any]] = {"seed": [*range(self.seeds)]}
        if self.rates > 1:
            axes["optim.lr"] = [round(0.001 + 0.02 * n / self.rates, 6) for n in range(self.rates)]
        if stage == "distill":
            axes["kd.T"] = [
                round(1 + 19 * n / self.temperatures, 4) for n in range(self.temperatures)
            ]
            axes["kd.alpha"] = [round(n / self.alphas, 4) for n in range(self.alphas)]
        return (dict(zip(axes, each, strict=True)) for each in itertools.product(*axes.values()))


def write_study(outputs: Path, sweep: Sweep) -> Path:
    """Write a study of students that were never trained, except a few that are like them."""
    study = outputs / "main"
    swept = ("kd.T=1,2", "kd.alpha=0,0.5", "seed=0,1", "store.compact_from=2", "store.pack=4")
    train_py(outputs, "stage=teacher", "data=mnist_mini", "trainer.max_epochs=2")
    train_py(outputs, "-m", "stage=student,distill", *WORDS, *swept)
    found = {pack.note["config"]["stage"]: Like(pack) for pack in packs.packs_of(study)}
    for name in (packs.FOLDER, "student", "distill"):
        shutil.rmtree(study / name)
    alone: dict[int, float] = {}
    for stage in ("student", "distill"):
        like, jobs = found[stage], sweep.jobs(stage)
        for number in itertools.count():
            results = like.results([*itertools.islice(jobs, PACK)], alone, sweep.epochs)
            if not results:
                break
            pack_writing.write(study / packs.FOLDER / f"{stage}-{number:05}", results, like.common)
    return study


class Like:
    """Makes up students like those of a pack.

    Args:
        pack: of students that were trained.
    """

    def __init__(self, pack: packs.Pack) -> None:
        name = pack.names[0]
        self.name, self.metrics, self.weights = name, pack.row(name), pack.weights(name)
        self.words = pack.words(name)
        self.images = pack.images
        note = pack.note
        self.common = pack_writing.Common(note["config"], note["hydra"], *self.images, {})
        self.random = np.random.default_rng(len(name))

    def results(
        self, jobs: Sequence[dict[str, Any]], alone: dict[int, float], epochs: int
    ) -> list[pack_writing.Result]:
        """What students of these settings come to; ``alone`` are error rates by seed."""
        return [self._result(job, alone, epochs) for job in jobs]

    def _result(
        self, settings: dict[str, Any], alone: dict[int, float], epochs: int
    ) -> pack_writing.Result:
        draw, labels = self.random, self.images.labels
        errors = alone.setdefault(settings["seed"], draw.normal(0.2, 0.01))
        if "kd.T" in settings:
            taught = (1 - settings["kd.alpha"]) * (abs(settings["kd.T"] - 4) / 16 - 0.2)
            errors += 0.03 * taught + draw.normal(0, 0.005)
        wrong = draw.random(len(labels)) < errors
        classes = np.where(wrong, (labels + 1 + draw.integers(9, size=len(labels))) % 10, labels)
        last = {"val/acc": 1 - errors, "test/acc": float((classes == labels).mean())}
        last |= {"val/loss": 4 * errors, "train/loss": 3 * errors, "test/loss": 4.2 * errors}
        last |= {"test/ece": errors / 4, "time/fit_s": 0.02 + 0.001 * draw.random()}
        if "kd.T" in settings:
            last |= {"fidelity/agreement": 1 - errors / 2, "fidelity/kl": errors / 2}
        own = {key.replace(".", "/"): value for key, value in settings.items()}
        tags = ("train/loss", "val/loss", "train/acc", "val/acc", "train/lr")
        history = [
            {tag: round(1 - errors - 0.1 / n + 0.001 * draw.random(), 7) for tag in tags}
            for n in range(1, epochs + 1)
        ]
        return pack_writing.Result(
            name=self._named(settings),
            metrics=self.metrics | own | last | {"epochs": epochs},
            words=[word for word in self.words if word.partition("=")[0] not in settings]
            + [f"{key}={value}" for key, value in settings.items()],
            settings=settings,
            history=history,
            classes=classes.astype(np.uint8),
            weights=self.weights,
        )

    def _named(self, settings: dict[str, Any]) -> str:
        stage, _, words = self.name.partition("/")
        swept = {key.removeprefix("kd."): value for key, value in settings.items()}
        old = dict(word.split("=") for word in words.split(","))
        return f"{stage}/" + ",".join(f"{key}={value}" for key, value in (old | swept).items())


def measured(*words: str) -> tuple[float, float]:
    """Seconds and GB at the peak of ``python …``."""
    command = [sys.executable, *words]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


PLAN = """
import re, sys, time
started = time.perf_counter()
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from kd.files import CONF
from kd.sweeps.job_configs import copying, make_job, read_lists
from kd.sweeps.ranges import plan_families
with initialize_config_dir(str(CONF), version_base="1.3"):
    loader = GlobalHydra.instance().config_loader()
    master = loader.load_configuration("config", ["hydra.job.num=0"], run_mode=RunMode.MULTIRUN)
    load = copying(loader)
    lists = read_lists(OverridesParser.create().parse_overrides(sys.argv[1:]))
    families = plan_families(lists, lambda words: make_job(load(master, words)))
blocks = [block for family in families for block in family.blocks(1000)]
students = sum(map(len, blocks))
# Not ru_maxrss, which begins with that of the process that started this one.
peak = int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20
print(students, len(blocks), time.perf_counter() - started, peak)
"""


def plan(sweep: Sweep, n: int) -> None:
    """What planning takes before the first student trains."""
    swept = (
        f"kd.T=range(1,{sweep.temperatures + 1})",
        f"kd.alpha=range(0,1,{1 / sweep.alphas})",
        f"seed=range(0,{sweep.seeds})",
    )
    command = [sys.executable, "-c", PLAN, "stage=student,distill", *swept]
    rows = []
    for _ in range(n):
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT)
        rows.append([*map(float, said.stdout.split())])
    students, blocks, seconds, memory = zip(*rows, strict=True)
    print("| students | packs | s | peak, GB |\n|---|---|---|---|")
    print(
        f"| {students[0]:,.0f} | {blocks[0]:,.0f} | {spread([*seconds], 1)} | {spread([*memory])} |"
    )


TABLES = """
import pathlib, sys
from kd.training import write_results
write_results(pathlib.Path(sys.argv[1]))
"""


def store(sweep: Sweep, n: int) -> None:
    """What a study takes on the disk, and what its tables take to be written."""
    with tempfile.TemporaryDirectory() as folder:
        study, started = Path(folder, "main"), time.perf_counter()
        write_study(Path(folder), sweep)
        print(f"{len(sweep):,} students written in {time.perf_counter() - started:.0f} s")
        seconds, memory = zip(*(measured("-c", TABLES, str(study)) for _ in range(n)), strict=True)
        files = [path for path in study.rglob("*") if path.is_file()]
        tables = sum(path.stat().st_size for path in study.glob("results.*"))
        kept = [path for path in files if path.parent.parent.name == packs.FOLDER]
        own = sum(path.stat().st_size for path in kept if path.name != packs.WEIGHTS)
        each = (own / len(sweep), tables / len(sweep), len(files) / len(sweep))
        print("| students | bytes of packs | of tables | files | tables, s | peak, GB |")
        print("|---|---|---|---|---|---|")
        told = "{:.0f} | {:.0f} | {:.4f}".format(*each)
        print(f"| {len(sweep):,} | {told} | {spread([*seconds], 1)} | {spread([*memory])} |")


def report(sweep: Sweep, n: int) -> None:
    """What the report of a study takes."""
    with tempfile.TemporaryDirectory() as folder:
        outputs, started = Path(folder), time.perf_counter()
        study = write_study(outputs, sweep)
        print(f"{len(sweep):,} students written in {time.perf_counter() - started:.0f} s")
        found = []
        for _ in range(n):
            for stage in ("student", "distill"):  # what the report before has unpacked
                shutil.rmtree(study / stage, ignore_errors=True)
            found.append(measured("train.py", "stage=report", f"output_dir={outputs}"))
            print("{:.1f} s, {:.2f} GB".format(*found[-1]), flush=True)
        seconds, memory = zip(*found, strict=True)
        page = (study / "report/index.html").stat().st_size
        whole = sum(path.stat().st_size for path in (study / "report").iterdir())
        print(
            "| students | cells | s | peak, GB | page, MB | report, MB |\n|---|---|---|---|---|---|"
        )
        cells = sweep.rates * sweep.temperatures * sweep.alphas
        figures = (
            f"{spread([*seconds], 1)} | {spread([*memory])} | {page / 1e6:.1f} | {whole / 1e6:.1f}"
        )
        print(f"| {len(sweep):,} | {cells:,} | {figures} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts: dict[str, Any] = {"plan": plan, "store": store, "report": report}
    parser.add_argument("part", choices=parts)
    parser.add_argument("-n", type=int, default=3, help="measurements (default: 3)")
    for word, default in {"temperatures": 100, "alphas": 10, "seeds": 100, "rates": 1}.items():
        short = f"-{word[0].upper() if word[0] == 't' else word[0]}"
        parser.add_argument(short, f"--{word}", type=int, default=default, help=f"({default})")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, n = {given.n}")
    parts[given.part](Sweep(given.temperatures, given.alphas, given.seeds, given.rates), given.n)


if __name__ == "__main__":
    main()
