"""The network in whole numbers of eight bits: made in two ways, chosen, and judged."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from kd.errors import reason
from kd.export.formats import INPUT, Forward, open_onnx, quiet
from kd.export.subject import Part, Subject
from kd.report import stats


class Int8(NamedTuple):
    """A network in eight bits, and what that changes."""

    way: str  # static or dynamic
    validation: dict[str, float]  # accuracy by way
    on_validation: float  # its accuracy less that of float32
    change: float  # the same on test images, with the interval of the two on the same images
    low: float
    high: float
    p: float  # McNemar's
    refused: bool


class Calibration(CalibrationDataReader):
    """Hands images to onnxruntime, some hundred at a time.

    Args:
        part: the training images.
        count: how many of them, evenly spread.
    """

    def __init__(self, part: Part, count: int) -> None:
        chosen = np.linspace(0, len(part.indices) - 1, min(count, len(part.indices))).astype(int)
        self.batches = Part(part.pool, part.indices[torch.from_numpy(chosen)]).batches()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def quantise(
    fp32: Path, folder: Path, train: Part, count: int
) -> tuple[dict[str, Path], list[str]]:
    """Quantise a network in both ways.

    Args:
        fp32: its ONNX file.
        folder: for the files.
        train: training images, from which static quantisation has its ranges.
        count: how many of them.

    Returns:
        the files by way, and why there are not both.
    """
    prepared = folder / "prepared.onnx"
    files = {way: folder / f"{way}.onnx" for way in ("static", "dynamic")}
    why = []
    with quiet():
        try:
            quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        except Exception:  # an optimisation, which it can do without
            shutil.copy(fp32, prepared)
        for way, path in list(files.items()):
            try:
                if way == "static":
                    quantise_statically(prepared, path, Calibration(train, count))
                else:
                    quantise_dynamically(prepared, path)
                finish(path, fp32)
                open_onnx(path)
            except Exception as error:  # of an operation that has no form in eight bits
                why.append(f"{way.capitalize()} quantisation failed: {reason(error)}.")
                del files[way]
    return files, why


def quantise_statically(prepared: Path, path: Path, images: Calibration) -> None:
    """Quantise a network with the ranges that these images show."""
    quantize_static(
        prepared,
        path,
        images,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,  # else sums overflow on CPUs without instructions for them
    )


def quantise_dynamically(prepared: Path, path: Path) -> None:
    """Quantise a network whose inputs have the ranges of each batch.

    Weights of whole numbers from 0 up are all that older runtimes know for convolutions, and fast
    there; products of matrices are faster with signed ones.
    """
    if any(node.op_type == "Conv" for node in onnx.load(prepared).graph.node):
        quantize_dynamic(prepared, path, weight_type=QuantType.QUInt8)
    else:
        signed = QuantType.QInt8
        quantize_dynamic(prepared, path, per_channel=True, reduce_range=True, weight_type=signed)


def finish(path: Path, fp32: Path) -> None:
    """Give a quantised network the metadata of the one that it was made of; check it."""
    model, whole = onnx.load(path), onnx.load(fp32)
    known = {entry.key: entry.value for entry in whole.metadata_props}
    onnx.helper.set_model_props(model, known | {"precision": path.stem + " int8"})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def answers(forward: Forward, part: Part) -> Tensor:
    """(images, classes): a network's logits for some images."""
    with torch.inference_mode():
        return torch.cat([forward(batch) for batch in part.batches()])


def right(logits: Tensor, part: Part) -> np.ndarray:
    """(images,): which of them a network names rightly."""
    return (logits.argmax(1) == part.labels).numpy()


def choose(
    files: dict[str, Path], subject: Subject, validated: Tensor, tested: Tensor, tolerance: float
) -> tuple[Int8, Tensor]:
    """Choose a way by validation accuracy, and judge it beside float32.

    Test images choose nothing here; they can only refuse.

    Args:
        files: of each way.
        subject: with the images.
        validated: float32's logits of the validation images.
        tested: those of the test images.
        tolerance: the accuracy that it may lose, on validation and on test images.

    Returns:
        what it is, and its logits of the test images.
    """
    accuracy = {
        way: float(right(answers(open_onnx(path), subject.val), subject.val).mean())
        for way, path in files.items()
    }
    way = max(accuracy, key=lambda way: accuracy[way])  # of equal ones static, which comes first
    logits = answers(open_onnx(files[way]), subject.test)
    whole, mine = right(tested, subject.test), right(logits, subject.test)
    on_validation = accuracy[way] - float(right(validated, subject.val).mean())
    change = float(mine.mean() - whole.mean())
    low, high = stats.bootstrap_difference(mine, whole) if (whole != mine).any() else (0.0, 0.0)
    refused = -min(change, on_validation) > tolerance
    p = stats.mcnemar(whole, mine)
    return Int8(way, accuracy, on_validation, change, low, high, p, refused), logits
