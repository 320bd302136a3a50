"""What a network costs: parameters, multiplications, bytes, memory and time."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kd import metrics
from kd.export.formats import Forward, open_onnx
from kd.export.subject import Part
from kd.models.base import Task
from kd.models.network import count_parameters
from kd.report import stats
from kd.report.evaluation import MOST_PIXELS
from kd.training.threads import using

BATCHES = (1, 32, 1000)
ROUNDS = 10  # in which all have their turn, so that a busy neighbour meets all of them
MOST_SECONDS = 5.0  # that one figure may take
PEAK = Path(__file__).with_name("peak.py")


class Network(NamedTuple):
    """A network in the forms that are measured."""

    name: str
    onnx: Path
    logits: Tensor  # of the test images, by its ONNX file
    module: Any = None  # torch's; int8 has none
    whole: Any = None  # the module whose parameters and multiplications it shares


def describe(network: Network, test: Part, task: Task, teacher: Tensor | None) -> dict[str, Any]:
    """Measure all but the time: one row of the table of networks.

    Args:
        network: that is measured.
        test: the images that its logits are of.
        task: what it is made for.
        teacher: the teacher's logits of the same images, if it is known.
    """
    module, labels = network.whole or network.module, test.labels
    right = network.logits.argmax(1) == labels
    low, high = stats.share_interval(int(right.sum()), len(labels))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, *task.shape))
    same = None if teacher is None else float(metrics.agreement(network.logits, teacher))
    return {
        "network": network.name,
        "test_accuracy": float(right.double().mean()),
        "low": low,
        "high": high,
        "test_ece": float(metrics.expected_calibration_error(network.logits, labels)),
        "agreement": same,
        "parameters": count_parameters(module),
        "multiplications": counter.get_total_flops() // 2,
        "bytes": network.onnx.stat().st_size,
        "peak_bytes": peak_bytes(network.onnx, (largest(task), *task.shape)),
    }


def largest(task: Task) -> int:
    """The largest batch that is measured: fewer images where these are large."""
    return max(1, min(BATCHES[-1], MOST_PIXELS // math.prod(task.shape)))


def peak_bytes(path: Path, shape: tuple[int, ...]) -> int | None:
    """Measure the memory that an ONNX file needs for a batch; None where that cannot be known."""
    words = [sys.executable, PEAK, path.absolute(), *map(str, shape)]
    done = subprocess.run(words, capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None


class Runner(NamedTuple):
    """A network in the hands of an engine with so many threads, with its passes so far."""

    network: str
    engine: str
    threads: int
    forward: Forward
    seconds: list[float]


def runners(networks: list[Network], threads: int) -> Iterator[Runner]:
    """Yield each network by torch, where it has such a form, and by onnxruntime."""
    for network in networks:
        if network.module is not None:
            yield Runner(network.name, "torch", threads, network.module, [])
        yield Runner(network.name, "onnxruntime", threads, open_onnx(network.onnx, threads), [])


def time_all(networks: list[Network], images: Tensor, passes: int) -> list[dict[str, Any]]:
    """Measure the latencies of all networks side by side.

    Args:
        networks: that are measured.
        images: some test images, which are repeated to fill a batch.
        passes: how many times each is timed; fewer where that would take long.

    Returns:
        one row per network, engine, number of threads and batch: percentiles in microseconds.
    """
    rows = []
    shape = tuple(images.shape[1:])
    most = largest(Task((shape[0], shape[1], shape[2])))
    for size in sorted({min(batch, most) for batch in BATCHES}):
        batch = images[torch.arange(size) % len(images)].contiguous()
        for threads in dict.fromkeys((1, torch.get_num_threads())):
            with using(threads), torch.inference_mode():
                rows += time_batch(list(runners(networks, threads)), batch, passes)
    return rows


def time_batch(found: list[Runner], batch: Tensor, passes: int) -> list[dict[str, Any]]:
    """Time the passes of one batch, in rounds in which every runner has its turn."""
    each = -(-passes // ROUNDS)
    for _ in range(ROUNDS):
        for runner in found:
            runner.forward(batch)  # has its weights at hand then
            for _ in range(each):
                if sum(runner.seconds) < MOST_SECONDS and len(runner.seconds) < passes:
                    runner.seconds.append(stopwatch(runner.forward, batch))
    return [row_of(runner, len(batch)) for runner in found]


def stopwatch(forward: Callable[[Tensor], Any], batch: Tensor) -> float:
    """Seconds of one pass."""
    started = time.perf_counter()
    forward(batch)
    return time.perf_counter() - started


def row_of(runner: Runner, batch: int) -> dict[str, Any]:
    """The latencies of a runner as a row: the 99th percentile only of a hundred passes or more."""
    microseconds = 1e6 * np.asarray(runner.seconds)
    rare = len(microseconds) >= 100
    return {
        "network": runner.network,
        "engine": runner.engine,
        "threads": runner.threads,
        "batch": batch,
        "p50_us": float(np.median(microseconds)),
        "p99_us": float(np.percentile(microseconds, 99)) if rare else None,
        "passes": len(microseconds),
    }
