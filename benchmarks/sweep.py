"""What it costs to train many students: a whole sweep, one more student, the talk's grid.

    python benchmarks/sweep.py whole      # the 20-cell sweep: together, one by one, as tutorials do
    python benchmarks/sweep.py rerun      # a sweep of 330 runs that are all complete
    python benchmarks/sweep.py growth     # seconds a student-epoch and memory by size of the sweep
    python benchmarks/sweep.py talk       # the talk's 110 cells, and the share of matmul throughput
    python benchmarks/sweep.py jax        # the same steps by JAX: pip install -e '.[bench]'
    python benchmarks/sweep.py networks   # other networks than the MLP: one by one, and stacked
    python benchmarks/sweep.py agreement  # test accuracies of the 20 cells, together and one by one

Everything runs on the real images, from an empty folder of outputs, in one process after another.
Times are medians of n measurements with the least and the most.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from kd.config.schema import Config
from kd.config.validation import validate
from kd.data.module import CHUNK, ImageDataModule
from kd.files import PROJECT
from kd.models.base import MNIST as MNIST_TASK
from kd.models.base import Task
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.models.network import build_model, count_parameters
from kd.models.resnet8 import ResNet8
from kd.outputs import Outputs
from kd.sweeps import choice
from kd.sweeps import module as fused
from kd.training.material import Accelerator, Material, choose_accelerator
from kd.training.memory import student_bytes
from kd.training.tracing import wide_product

GRID = ("kd.T=1,2,5,10", "kd.alpha=0,0.25,0.5,0.75,1")
TALK = (
    "kd.T=1,2,3,4,5,6,7,8,9,10",
    "kd.alpha=0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1",
)
ONE_BY_ONE = "hydra/launcher=basic"


def spread(values: list[float], digits: int = 2) -> str:
    """Median (least–most)."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def train_py(outputs: Path, *words: str) -> tuple[float, str]:
    """Seconds of ``python train.py …`` from start to exit, and what it said."""
    command = [sys.executable, str(PROJECT / "train.py"), *words, f"output_dir={outputs}"]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT)
    return time.perf_counter() - started, done.stdout


def load(*words: str) -> tuple[Config, ImageDataModule]:
    """A configuration of the command line's, and its data."""
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = validate(compose("config", overrides=["stage=distill", *words]))
    data = ImageDataModule(config.data, config.seed)
    data.prepare_data()
    data.setup()
    return config, data


# ------------------------------------------------------------------ the 20-cell sweep


def whole(n: int) -> None:
    """Wall time of the whole command, start-up included."""
    together, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        train_py(outputs, "stage=teacher")
        sweep = ("-m", "stage=distill", *GRID, "overwrite=true")
        for _ in range(n):
            together.append(train_py(outputs, *sweep)[0])
            alone.append(train_py(outputs, *sweep, ONE_BY_ONE)[0])
            print(f"together {together[-1]:.1f} s, one by one {alone[-1]:.1f} s", flush=True)
        tutorial = 10 * tutorial_cells(outputs)
    ratios = [a / t for a, t in zip(alone, together, strict=True)]
    print("\n| the 20 cells, 10 epochs of batch 128 | s | times together |\n|---|---|---|")
    print(f"| together | {spread(together, 1)} | 1 |")
    print(f"| one by one ({ONE_BY_ONE}) | {spread(alone, 1)} | {spread(ratios, 1)} |")
    print(
        f"| plain PyTorch, DataLoader, teacher in every step (2 cells × 10) | {tutorial:.0f} "
        f"| {tutorial / statistics.median(together):.0f} |"
    )


def rerun(n: int) -> None:
    """Wall time of a sweep whose runs are all complete: each is checked, none is trained."""
    small = ("data=mnist_mini", "trainer.max_epochs=1")
    sweep = ("kd.T=1,2,3,4,5,10", "kd.alpha=0,0.25,0.5,0.75,1", "seed=range(11)")
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        train_py(outputs, "stage=teacher", *small)
        first, *again = (
            train_py(outputs, "-m", "stage=distill", *small, *sweep)[0] for _ in range(n + 1)
        )
    print(f"330 runs: trained in {first:.1f} s, then skipped in {spread(again, 1)} s")


TUTORIAL = ((2.0, 0.25), (5.0, 0.75))


def tutorial_cells(outputs: Path, cells: Sequence[tuple[float, float]] = TUTORIAL) -> float:
    """Seconds of some cells as tutorials write them: no framework, nothing computed beforehand."""
    config, data = load()
    teacher = build_model(CNN(), seed=0)
    (path,) = outputs.glob("main/teacher/*/model.ckpt")
    teacher.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    teacher.eval()
    dataset = MNIST(config.data.dir, train=True, transform=ToTensor())
    train, val = (Subset(dataset, data.indices[part].tolist()) for part in ("train", "val"))
    loaders = DataLoader(train, batch_size=128, shuffle=True), DataLoader(val, batch_size=128)
    started = time.perf_counter()
    for T, alpha in cells:
        student = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)
        )
        adam = torch.optim.Adam(student.parameters(), lr=1e-2)
        for _ in range(10):
            student.train()
            for images, labels in loaders[0]:
                with torch.no_grad():
                    taught = teacher(images)
                logits = student(images)
                soft = F.kl_div(
                    F.log_softmax(logits / T, 1), F.softmax(taught / T, 1), reduction="batchmean"
                )
                loss = alpha * F.cross_entropy(logits, labels) + (1 - alpha) * T**2 * soft
                adam.zero_grad()
                loss.backward()
                adam.step()
            student.eval()
            with torch.no_grad():
                right = sum((student(x).argmax(1) == y).sum().item() for x, y in loaders[1])
            print(f"tutorial, T={T} alpha={alpha}: val acc {right / 10_000:.4f}", flush=True)
    return time.perf_counter() - started


# ------------------------------------------------------------------ one more student


def make_module(students: int, batch_size: int, compiled: bool) -> fused.GroupModule:
    """A group of one seed, ready to train on made-up teacher logits."""
    config, data = load(f"data.batch_size={batch_size}")
    taught = Outputs(3 * torch.randn(len(data.pool.labels), 10), None)
    teachers = [Path("made-up")]
    here = Accelerator("cpu", torch.device("cpu"))
    material = Material(here, data, teachers, teacher_outputs=taught)
    configs = [
        replace(config, kd=replace(config.kd, T=1 + k / 10, alpha=k % 10 / 10))
        for k in range(students)
    ]
    module = fused.GroupModule(configs, [material] * students)
    adam = torch.optim.Adam(module.stack.parameters(), fused=True)
    module.optimizers = lambda **_: adam  # in place of the Trainer's
    module.lr_schedulers = lambda: None
    module.compiles = compiled
    return module


def steps_of(module: fused.GroupModule) -> Callable[[int], int]:
    """A function that trains on about so many batches of full size, and says on how many."""
    chunks = [chunk for chunk in module.orders if len(chunk) == CHUNK]

    def run(count: int) -> int:
        done = 0
        while done < count:
            module.training_step(chunks[done // CHUNK % len(chunks)], 0)
            done += CHUNK
        return done

    run(1)
    return run


def per_student_step(module: fused.GroupModule, n: int) -> list[float]:
    """Milliseconds a student-step, n times over."""
    run, count = steps_of(module), max(50, 10_000 // module.students)
    times = []
    for _ in range(n):
        started = time.perf_counter()
        done = run(count)
        times.append(1e3 * (time.perf_counter() - started) / done / module.students)
    return times


def _growth(students: int, batch_size: int, compiled: bool, n: int, queue: object) -> None:
    choose_accelerator("cpu")
    logging.disable()
    module = make_module(students, batch_size, compiled)
    times = per_student_step(module, n)
    for batch in list(module.data.val_dataloader())[:2]:
        with torch.no_grad():
            module.validation_step(batch, 0)
    queue.put((times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10))


def in_a_process(function: Callable, *arguments: object) -> object:
    """What ``function`` puts into the queue it gets, from a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(*arguments, queue))
    process.start()
    result = queue.get()
    process.join()
    return result


def growth(n: int) -> None:
    """Cost of a student by the size of its sweep, each size in a process of its own."""
    print(
        "| batch | students | s a student-epoch, traced | compiled | peak memory, MB | a student |"
    )
    print("|---|---|---|---|---|---|")
    for batch_size in (32, 128):
        steps, base = -(-50_000 // batch_size), None
        config, data = load(f"data.batch_size={batch_size}")
        most = (
            config.trainer.group_mb * 2**20 // student_bytes(config, data.task)
        )  # as the launcher does
        sizes = [(students, -(-students // most)) for students in (1, 5, 20, 110, 500)]
        for students, groups in [*sizes, (500, 1)]:
            size, cells = -(-students // groups), []
            for compiled in (False, True):
                times, memory = in_a_process(_growth, size, batch_size, compiled, n)
                cells.append(spread([steps * t / 1e3 for t in times], 3))
                if not compiled:
                    peak = memory
            base = base or peak
            each = f"{(peak - base) / (size - 1):.2f}" if size > 1 else ""
            stack = " in one stack" if size > most else ""
            name = f"{students} in {groups} groups" if groups > 1 else f"{students}{stack}"
            row = f"| {batch_size} | {name} | {cells[0]} | {cells[1]} | {peak:.0f} | {each} |"
            print(row, flush=True)


# ------------------------------------------------------------------ the talk's grid


def matmul_gflops() -> dict[str, float]:
    """Billions of operations a second of a 2048-cube product, float32, by both libraries."""
    a, b = torch.randn(2, 2048, 2048)
    found = {}
    for name, product in (("torch.mm", torch.mm), ("oneDNN", wide_product)):
        times = []
        for _ in range(20):
            started = time.perf_counter()
            product(a, b)
            times.append(time.perf_counter() - started)
        found[name] = 2 * 2048**3 / statistics.median(times) / 1e9
    return found


def talk(n: int) -> None:
    """The talk's 110 cells of one seed, as the command trains them."""
    seconds, shares = [], []
    peak = matmul_gflops()
    best = max(peak.values())
    parameters = count_parameters(build_model(load()[0].model, seed=0))
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        train_py(outputs, "+experiment=talk", "stage=teacher", "trainer.max_epochs=1")
        (teacher,) = outputs.glob("talk/teacher/*/model.ckpt")
        for _ in range(n):
            took, said = train_py(
                outputs, "-m", "+experiment=talk", "stage=distill", *TALK, "overwrite=true",
                f"teacher.checkpoint={teacher}",
            )  # fmt: skip
            seconds.append(took)
            students = int(re.search(r"(\d+) students train together", said)[1])
            metrics = next(outputs.glob("talk/distill/*/metrics.json"))
            fit = json.loads(metrics.read_text())["time/fit_s"] * students
            shares.append(6 * parameters * 50_000 * 20 * students / fit / 1e9 / best)
            print(f"{took:.0f} s, of which {fit:.0f} s training {students} students", flush=True)
    rates = ", ".join(f"{rate:.0f} GFLOP/s by {name}" for name, rate in peak.items())
    print(f"\n110 cells × 20 epochs × batch 32: {spread(seconds, 0)} s, n = {n}")
    print(f"a 2048-cube float32 product: {rates}")
    print(
        f"6 × parameters × samples, validation and figures included in the time: "
        f"{spread([100 * share for share in shares], 0)} % of the faster"
    )


# ------------------------------------------------------------------ JAX


def jax_epoch(students: int, batch_size: int) -> Callable[[int], int]:
    """The same training by JAX: jit, vmap over students, scan over the batches."""
    import jax
    import jax.numpy as jnp

    key = jax.random.key(0)
    images = jax.random.uniform(key, (50_000, 784))
    labels = jax.random.randint(key, (50_000,), 0, 10)
    taught = 3 * jax.random.normal(key, (50_000, 10))
    T, alpha = 1 + jnp.arange(students) / 10, jnp.arange(students) % 10 / 10

    def loss(p, T, alpha, x, y, t, mask):
        hidden = jax.nn.relu(x @ p["w1"] + p["b1"]) * mask
        logits = hidden @ p["w2"] + p["b2"]
        label = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()
        student, teacher = jax.nn.log_softmax(logits / T), jax.nn.log_softmax(t / T)
        soft = T**2 * (jnp.exp(teacher) * (teacher - student)).sum(-1).mean()
        right = (logits.argmax(-1) == y).sum()
        value = alpha * label + (1 - alpha) * soft
        return value, (value, right)

    gradients = jax.vmap(jax.grad(loss, has_aux=True), in_axes=(0, 0, 0, None, None, None, None))

    def step(state, given):
        p, m, v, count, sums = state
        chosen, key = given
        mask = jax.random.bernoulli(key, 0.9, (batch_size, 32)) / 0.9
        g, (values, right) = gradients(
            p, T, alpha, images[chosen], labels[chosen], taught[chosen], mask
        )
        count += 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        scale, bias = 1 / (1 - 0.9**count), 1 / (1 - 0.999**count)
        p = jax.tree.map(
            lambda p, m, v: p - 1e-2 * m * scale / (jnp.sqrt(v * bias) + 1e-8), p, m, v
        )
        return (p, m, v, count, (sums[0] + values, sums[1] + right)), None

    def many(state, key, count):
        order = jax.random.permutation(key, 50_000)[: count * batch_size]
        given = order.reshape(count, batch_size), jax.random.split(key, count)
        return jax.lax.scan(step, state, given)[0]

    many = jax.jit(many, static_argnums=2)
    p = {
        "w1": jax.random.normal(key, (students, 784, 32)) * 0.05,
        "b1": jnp.zeros((students, 32)),
        "w2": jax.random.normal(key, (students, 32, 10)) * 0.2,
        "b2": jnp.zeros((students, 10)),
    }
    zero = jax.tree.map(jnp.zeros_like, p)
    sums = jnp.zeros(students), jnp.zeros(students, int)
    state = [(p, zero, jax.tree.map(jnp.copy, zero), 0.0, sums)]

    def run(count: int) -> int:
        state[0] = jax.block_until_ready(many(state[0], key, count))
        return count

    return run


def against_jax(n: int) -> None:
    """Milliseconds a student-step, both in one process, in turn."""
    import jax

    print(f"jax {jax.__version__}")
    print("| batch | students | JAX, ms | compiled, ms | ratio | traced, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for batch_size in (32, 128):
        for students in (20, 110):
            count = max(20, 4000 // students)
            runs = [
                jax_epoch(students, batch_size),
                steps_of(make_module(students, batch_size, compiled=True)),
                steps_of(make_module(students, batch_size, compiled=False)),
            ]
            for run in runs:
                run(count)
            times: list[list[float]] = [[], [], []]
            for _ in range(n):
                for run, found in zip(runs, times, strict=True):
                    started = time.perf_counter()
                    done = run(count)
                    found.append(1e3 * (time.perf_counter() - started) / done / students)
            theirs, compiled, traced = times
            ratios = [
                spread([j / o for j, o in zip(theirs, ours, strict=True)])
                for ours in (compiled, traced)
            ]
            print(
                f"| {batch_size} | {students} | {spread(theirs, 3)} | {spread(compiled, 3)} "
                f"| {ratios[0]} | {spread(traced, 3)} | {ratios[1]} |",
                flush=True,
            )


# ------------------------------------------------------------------ other networks in a stack


def networks(n: int) -> None:
    """Steps of other networks, one by one and stacked, as ``trainer.stack=auto`` times them."""
    digits = Task((1, 8, 8), 10)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = [
        *((CNN(), MNIST_TASK), (CNN(), digits), (ResNet8(), MNIST_TASK), (ResNet8(), digits)),
        (MLP(hidden=[32, 32]), MNIST_TASK),
    ]
    print("| network | images | students | alone, ms | together, ms | alone / together |")
    print("|---|---|---|---|---|---|")
    for model, task in cases:
        for students in (1, 5, 20, 110) if device.type == "cuda" else (1, 5, 20):
            config = Config(model=model)
            found = [choice.measure(config, task, device, students) for _ in range(n)]
            alone, together = ([getattr(f, name) for f in found] for name in ("alone", "together"))
            ratios = [f.alone / f.together for f in found]
            side = f"{task.shape[1]} × {task.shape[2]}"
            cells = f"{spread(alone)} | {spread(together)} | {spread(ratios)}"
            print(f"| {model.name} | {side} | {students} | {cells} |", flush=True)


# ------------------------------------------------------------------ agreement


def agreement(n: int) -> None:
    """Differences of test accuracy between a cell trained together and alone, over n seeds."""
    from scipy.stats import ttest_1samp

    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        train_py(outputs, "stage=teacher")
        (teacher,) = outputs.glob("main/teacher/*/model.ckpt")
        seeds = ",".join(map(str, range(n)))
        sweep = ("-m", "stage=distill", *GRID, f"seed={seeds}", f"teacher.checkpoint={teacher}")
        train_py(outputs, *sweep, "study=together")
        train_py(outputs, *sweep, "study=alone", ONE_BY_ONE)
        differences = []
        for path in sorted(outputs.glob("together/distill/*/metrics.json")):
            same = outputs / "alone" / "distill" / path.parent.name / path.name
            mine, its = (json.loads(p.read_text())["test/acc"] for p in (path, same))
            differences.append(1e4 * (mine - its))
    mean = statistics.mean(differences)
    spread_ = statistics.stdev(differences)
    p = ttest_1samp(differences, 0).pvalue
    print(
        f"{len(differences)} cells: differences of {min(differences):.0f} to "
        f"{max(differences):.0f} of 10,000 test images, mean {mean:+.2f}, standard deviation "
        f"{spread_:.1f}; a mean of 0 has p = {p:.2f}"
    )


def main() -> None:
    """Measure and print."""
    parts = {
        "whole": whole,
        "rerun": rerun,
        "growth": growth,
        "talk": talk,
        "jax": against_jax,
        "networks": networks,
        "agreement": agreement,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=parts)
    parser.add_argument("-n", type=int, default=3, help="measurements (default: 3)")
    given = parser.parse_args()
    choose_accelerator("cpu")
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    print(
        f"{gpu}{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, n = {given.n}"
    )
    parts[given.part](given.n)


if __name__ == "__main__":
    main()
