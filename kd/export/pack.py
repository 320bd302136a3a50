"""Fills the folder of an exported network; every file is read back and compared before it stays."""

import json
import os
import platform
import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.config.schema import Config
from kd.errors import UserError
from kd.export import formats, int8
from kd.export.card import write_card
from kd.export.formats import CONFIG, INT8, ONNX, OPSET, PT2, WEIGHTS, Forward
from kd.export.int8 import Int8, answers
from kd.export.measure import Network, describe, time_all
from kd.export.subject import Subject
from kd.report.compression import MEASURED, say_compression

TEACHER = "teacher.onnx"
REFUSED = "student.int8.refused.onnx"
CLOSE = 1e-4  # that two engines' logits may differ by, and a tenth of it of their size


def pack(subject: Subject, config: Config, folder: Path) -> list[str]:
    """Write all files of an export.

    Args:
        subject: the network, with what it is checked on and compared with.
        config: with the settings of ``export``.
        folder: empty.

    Returns:
        lines for the terminal.

    Raises:
        UserError: the network cannot be exported, or a file answers other than the network does.
    """
    tested = answers(subject.network, subject.test)
    about = tell(subject, tested)
    write_formats(subject, folder, about, config.trust_code, tested)
    work = folder / "work"
    work.mkdir()
    judged, small, notes = add_int8(subject, config, folder, work, tested)
    networks, more = others(subject, folder, work)
    networks.append(Network(subject.kind, folder / ONNX, tested, subject.network))
    networks += [] if small is None else [small]
    measured = measure(subject, networks, config.export.passes)
    measured |= {
        "name": subject.chosen.name,
        "about": about,
        "shape": shape_words(subject.shape),
        "int8": None if judged is None else judged._asdict(),
        "tolerance": config.export.tolerance,
        "notes": [*subject.notes, *notes, *more],
    }
    shutil.rmtree(work)
    (folder / MEASURED).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    write_card(subject, tested, measured, folder)
    return [*describe_int8(judged, config.export.tolerance), say_compression(measured)]


def tell(subject: Subject, tested: Tensor) -> dict[str, Any]:
    """What is known of a network, as its files carry it."""
    facts, named = subject.facts, ("kd/method", "kd/T", "kd/alpha", "val/acc", "epochs", "seed")
    known = {key.removeprefix("kd/").replace("/", "_"): facts.get(key) for key in named}
    shape = ", ".join(map(str, subject.task.shape))
    right = (tested.argmax(1) == subject.test.labels).double().mean()
    return {
        "what": subject.kind,
        "run": subject.chosen.name,
        "model": subject.shape,
        "shape": list(subject.task.shape),
        "classes": subject.task.classes,
        "class_names": list(subject.names),
        "input": f"{formats.INPUT}: float32 in [0, 1], (batch, {shape})",
        "output": f"{formats.OUTPUT}: float32, (batch, {subject.task.classes})",
        **{key: value for key, value in known.items() if value is not None},
        "test_acc": float(right),
        "data": facts.get("data/dataset"),
        "data_fingerprint": facts["data/fingerprint"],
        "teacher_sha256": facts.get("teacher/sha256"),
        "git_commit": facts.get("git/commit"),
        "opset": OPSET,
    }


def write_formats(
    subject: Subject, folder: Path, about: dict[str, Any], trusted: bool, tested: Tensor
) -> None:
    """Write the network in all its forms, read each back, and compare its answers.

    Raises:
        UserError: it cannot be exported, or a file answers other than the network does.
    """
    program = formats.trace(subject.network, subject.task, subject.chosen.name)
    formats.write_onnx(program, folder / ONNX, as_texts(about))
    formats.write_pt2(program, folder / PT2)
    formats.write_safetensors(subject.network, folder, about)
    forms: dict[str, Forward] = {
        ONNX: formats.open_onnx(folder / ONNX),
        PT2: formats.open_pt2(folder / PT2),
        f"{WEIGHTS} and {CONFIG}": formats.load_student(folder, trusted),
    }
    for name, forward in forms.items():
        refuse_others(name, answers(forward, subject.test), tested)


def as_texts(about: dict[str, Any]) -> dict[str, str]:
    """What is known of a network as ONNX's metadata: texts, lists and dictionaries as JSON."""
    known = {key: value for key, value in about.items() if value is not None}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in known.items()}


def refuse_others(name: str, found: Tensor, wanted: Tensor) -> None:
    """Make sure that a file answers as the network does.

    Raises:
        UserError: a logit or a prediction differs.
    """
    differing = int((found.argmax(1) != wanted.argmax(1)).sum())
    if differing or not torch.allclose(found, wanted, rtol=CLOSE / 10, atol=CLOSE):
        apart = float((found - wanted).abs().max())
        raise UserError(
            f"{name}: answers other than the network does: logits differ by up to {apart:.2g}, "
            f"{differing} of {len(wanted)} predictions differ; nothing is written"
        )


def add_int8(
    subject: Subject, config: Config, folder: Path, work: Path, tested: Tensor
) -> tuple[Int8 | None, Network | None, list[str]]:
    """Write the network in eight bits, under another name if it loses too much.

    Returns:
        its judgement and what is measured of it, if it could be made; and what to say else.
    """
    files, notes = int8.quantise(folder / ONNX, work, subject.train, config.export.calibration)
    if not files:
        return None, None, notes
    validated = answers(subject.network, subject.val)
    judged, logits = int8.choose(files, subject, validated, tested, config.export.tolerance)
    path = folder / (REFUSED if judged.refused else INT8)
    files[judged.way].rename(path)
    again = answers(formats.open_onnx(path), subject.test)
    refuse_others(path.name, again, logits)
    name = f"{subject.kind}, int8{' (refused)' if judged.refused else ''}"
    return judged, Network(name, path, logits, whole=subject.network), notes


def others(subject: Subject, folder: Path, work: Path) -> tuple[list[Network], list[str]]:
    """Export what the network is compared with: its teacher to keep, the student alone not."""
    found, notes = [], []
    for kind, network in subject.others.items():
        path = folder / TEACHER if kind == "teacher" else work / "alone.onnx"
        logits = answers(network, subject.test)
        try:
            about = {"what": kind, "classes": subject.task.classes, "opset": OPSET}
            formats.write_onnx(formats.trace(network, subject.task, kind), path, about)
            refuse_others(path.name, answers(formats.open_onnx(path), subject.test), logits)
        except UserError as error:
            path.unlink(missing_ok=True)
            notes.append(f"The {kind} is not compared: {error}.")
        else:
            found.append(Network(kind, path, logits, network))
    return found, notes


def measure(subject: Subject, networks: list[Network], passes: int) -> dict[str, Any]:
    """Measure what all networks cost, side by side."""
    teacher = next((network.logits for network in networks if network.name == "teacher"), None)
    rows = [
        describe(each, subject.test, subject.task, None if each.name == "teacher" else teacher)
        for each in networks
    ]
    images = next(subject.test.batches())
    return {
        "networks": rows,
        "latency": time_all(networks, images, passes),
        "images": len(subject.test.indices),
        "machine": describe_machine(),
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
    }


def describe_machine() -> str:
    """Name the machine, and say how busy it is: latencies suffer from what runs beside."""
    found = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    with suppress(AttributeError, OSError):  # not known everywhere
        return f"{found} (load {os.getloadavg()[0]:.1f})"
    return found


def shape_words(shape: dict[str, Any]) -> str:
    """The settings that shape a network, in few words."""
    shown = {k: v for k, v in shape.items() if k != "name" and v not in (None, [], {})}
    return " ".join([str(shape["name"]), *(f"{k}={v}" for k, v in shown.items())])


def describe_int8(judged: Int8 | None, tolerance: float) -> list[str]:
    """What eight bits do to the accuracy, in a line."""
    if judged is None:
        return ["int8: could not be made"]
    told = (
        f"int8 ({judged.way}): {100 * judged.change:+.2f} points of test accuracy beside float32 "
        f"(95 % interval {100 * judged.low:+.2f} to {100 * judged.high:+.2f}, McNemar p = "
        f"{judged.p:.2g})"
    )
    if judged.refused:
        told += f"; refused, since it loses more than export.tolerance={tolerance:g}: {REFUSED}"
    return [told]
