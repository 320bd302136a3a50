"""How fast an exported MLP answers: onnxruntime, torch, and NumPy as the floor, with one thread.

    python benchmarks/export.py outputs/main/export/NAME

NumPy computes the same two products and nothing else. Each of n measurements takes the median of
many passes of each, in turns, so that a busy neighbour meets all of them. Prints the medians of
the n in microseconds with the least and the most, and of their ratios.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.numpy import load_file
from sweep import spread
from threadpoolctl import threadpool_limits

from kd.export import load_student
from kd.export.formats import INT8, ONNX, open_onnx

PASSES = {1: 2000, 32: 1000, 1000: 200}
ROUNDS = 20


def numpy_forward(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The forward pass of an MLP of one hidden layer, in NumPy."""
    found = load_file(folder / "student.safetensors")
    first, last = (np.ascontiguousarray(found[f"{k}.weight"].T) for k in ("dense", "output"))
    bias, of_logits = found["dense.bias"], found["output.bias"]

    def forward(images: np.ndarray) -> np.ndarray:
        hidden = images.reshape(len(images), -1) @ first
        hidden += bias
        np.maximum(hidden, 0, out=hidden)
        return hidden @ last + of_logits

    return forward


def measure(runners: dict[str, Callable[[], object]], passes: int) -> dict[str, float]:
    """Measure the median microseconds of each, in rounds in which each has its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(ROUNDS):
        for name, run in runners.items():
            run()
            for _ in range(passes // ROUNDS):
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    return {name: 1e6 * median(found) for name, found in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of an exported MLP of one hidden layer")
    parser.add_argument("-n", type=int, default=7, help="measurements (default: 7)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's
    network, numpy = load_student(given.folder), numpy_forward(given.folder)
    files = {"onnxruntime": ONNX, "onnxruntime, int8": INT8}
    opened = {
        k: open_onnx(given.folder / f) for k, f in files.items() if (given.folder / f).exists()
    }
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, n={given.n}, load {os.getloadavg()[0]:.1f}"
    )
    print("| batch | engine | µs | times NumPy's | times torch's |\n|---|---|---|---|---|")
    for batch, passes in PASSES.items():
        images = torch.rand(batch, 1, 28, 28)
        array = images.numpy()
        runners = {"NumPy": lambda array=array: numpy(array)}
        runners["torch"] = lambda images=images: network(images)
        runners |= {k: lambda f=f, images=images: f(images) for k, f in opened.items()}
        assert np.allclose(numpy(array), network(images).detach(), atol=1e-3)
        with torch.inference_mode():
            found = [measure(runners, passes) for _ in range(given.n)]
        for name in runners:
            own, floor, theirs = ([each[k] for each in found] for k in (name, "NumPy", "torch"))
            ratios = [[a / b for a, b in zip(own, other, strict=True)] for other in (floor, theirs)]
            print(f"| {batch} | {name} | {' | '.join(map(spread, (own, *ratios)))} |", flush=True)


if __name__ == "__main__":
    main()
