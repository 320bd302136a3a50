"""The data within the page: figures of all cells, predictions, and the digits worth looking at.

``templates/page.js`` reads them. Arrays are packed: little-endian, deflated, in base64.
"""

import base64
import io
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from kd.errors import UserError
from kd.report.evaluation import Run, count_answers
from kd.report.packed import PackedRun, forget_answers, pack_by_pack, read_answers
from kd.report.page import MANY, spread
from kd.report.progress import watched
from kd.report.sections import load_images, read_curve, with_logits
from kd.report.study import Cell, Method, Study
from kd.training.threads import using

MOST_RUNS = 1000  # whose predictions are all embedded
MOST_EMBEDDED = 20_000  # of more than MANY: their figures
MOST_METHODS, MOST_TS, MOST_ALPHAS = 20, 100, 20  # of these
MOST_IMAGES, MOST_SIDE = 1500, 32  # that are embedded, and their size in pixels
MOST_VALUES = 1_200_000  # of the images together, all channels
MOST_CLASSES = 256  # with a confusion matrix


@using(1)
def embed(study: Study) -> dict[str, Any]:
    """Collect what the page's script shows; JSON can hold it."""
    shown = select_networks(study)
    cells, part = select_cells(study)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    runs = list(dict.fromkeys([*shown.values(), *list_runs(cells)]))
    number = {run: n for n, run in enumerate(runs)}
    curves = read_curves(runs)
    content = {
        "classes": runs[0].classes if runs else [],
        "methods": [method.label for method in methods],
        "runs": tabulate_runs(runs, few=not part),
        "cells": [describe_cell(study, cell, methods, number) for cell in cells],
        "chosen": cells.index(study.verdict.chosen) if study.verdict.chosen else None,
        "teacher": number.get(study.teacher) if study.teacher else None,
        "curves": [mean_curve(cell.runs.values(), curves) for cell in cells],
        "curves_alone": [mean_curve(method.controls.values(), curves) for method in methods],
    }
    if part:
        content["part"] = part
    if runs and len(runs[0].classes) <= MOST_CLASSES:
        content |= embed_answers(study, cells, runs, number)
    return content | {"digits": embed_digits(shown)}


def select_cells(study: Study) -> tuple[list[Cell], str]:
    """Select the cells that are embedded: all, or of very many runs an even part.

    Returns:
        the cells, the chosen one among them; and of very many runs what of them is in the page.
    """
    count = sum(len(cell.runs) for cell in study.cells)
    if count <= MANY:
        return study.cells, ""
    chosen = study.verdict.chosen
    methods = study.methods[:MOST_METHODS]
    if chosen and chosen.method not in methods:
        methods = [*methods[:-1], chosen.method]
    room = max(1, MOST_EMBEDDED * len(study.cells) // count // len(methods))  # cells of a method
    kept: list[Cell] = []
    for method in methods:
        here = chosen if chosen and chosen.method is method else None
        own = study.cells_of(method)
        alphas = spread(
            sorted({cell.alpha for cell in own}), min(MOST_ALPHAS, room), here and here.alpha
        )
        most = max(1, min(MOST_TS, room // len(alphas)))
        Ts = spread(sorted({cell.T for cell in own}), most, here and here.T)
        kept += [cell for cell in own if cell.T in set(Ts) and cell.alpha in set(alphas)]
    if len(kept) == len(study.cells):
        return kept, "Figures are rounded to six digits."
    part = f"{len(kept):,} of {len(study.cells):,} cells are in this page, evenly spaced"
    return kept, f"{part}{', the chosen one among them' if chosen else ''}."


def list_runs(cells: Iterable[Cell]) -> Iterable[Run]:
    """The runs of cells and their students alone."""
    for cell in cells:
        yield from cell.runs.values()
        yield from cell.method.controls.values()


def select_networks(study: Study) -> dict[str, Run]:
    """The networks whose answers are shown by image: teacher, student alone, chosen student."""
    found: dict[str, Run | None] = {"teacher": study.teacher, "student alone": study.student}
    if cell := study.verdict.chosen or next(iter(study.cells), None):
        seed = min(cell.runs)
        found["student alone"] = cell.method.controls.get(seed, study.student)
        found["distilled student"] = cell.runs[seed]
    runs = {name: run for name, run in found.items() if run is not None}
    if not runs:
        return {}
    (*_, last) = runs.values()
    return {name: run for name, run in runs.items() if same_images(run, last)}


def same_images(one: Run, other: Run) -> bool:
    """Whether two runs were tested on the same images."""
    return np.array_equal(one.indices, other.indices)


def tabulate_runs(runs: list[Run], few: bool) -> dict[str, list[Any]]:
    """The runs' figures by column; without names, and to six digits, unless they are few."""
    keys = {"seed": "seed", "acc": "test/acc", "val": "val/acc"}
    keys |= {"agreement": "fidelity/agreement", "kl": "fidelity/kl"}
    columns: dict[str, list[Any]] = {
        short: [run.metrics.get(key) for run in runs] for short, key in keys.items()
    }
    if few:
        return {"name": [run.name for run in runs], **columns}
    return {key: [round(v, 6) if v else v for v in values] for key, values in columns.items()}


def describe_cell(
    study: Study, cell: Cell, methods: list[Method], number: dict[Run, int]
) -> dict[str, Any]:
    """A cell: its setting, its runs and controls by number, its gain; null for what is untested."""
    gain = study.comparisons[cell].gain
    figures = {"gain": gain.mean, "low": gain.low, "high": gain.high}
    if gain.n > 1:
        figures["p"] = study.comparisons[cell].p_holm
    controls = [cell.method.controls.get(seed) for seed in cell.runs]
    return {
        "m": methods.index(cell.method),
        "T": cell.T,
        "alpha": cell.alpha,
        "control": cell.is_control,
        "runs": [number[run] for run in cell.runs.values()],
        "alone": [number[run] if run else None for run in controls],
    } | {key: value if math.isfinite(value) else None for key, value in figures.items()}


def read_curves(runs: Iterable[Run]) -> dict[Run, np.ndarray]:
    """Validation accuracy by epoch, of the runs whose curves can be read."""
    found: dict[Run, np.ndarray] = {}
    for first, *others in watched([*pack_by_pack(runs)], "reading the curves"):
        if isinstance(first, PackedRun):
            curves = first.pack.curves("val/acc")
            own = (run for run in (first, *others) if isinstance(run, PackedRun))
            found |= {run: curves[run.row.number] for run in own}
        elif (curve := read_curve(first)) is not None:
            found[first] = curve["val/acc"].to_numpy()
    return found


def mean_curve(runs: Iterable[Run], read: Mapping[Run, np.ndarray]) -> list[float]:
    """Validation accuracy by epoch in %, mean over the runs whose curves can be read."""
    curves = [read[run] for run in runs if run in read]
    if not curves:
        return []
    length = min(map(len, curves))
    return np.mean([100 * curve[:length] for curve in curves], axis=0).round(2).tolist()


def embed_answers(
    study: Study, cells: list[Cell], runs: list[Run], number: dict[Run, int]
) -> dict[str, Any]:
    """The classes that runs name for every image; of a large study, matrices of its cells.

    Classes are stored as their distance from the label, which is mostly 0.
    """
    content: dict[str, Any] = {}
    first, few = runs[0], len(runs) <= MOST_RUNS
    labels, count = first.labels, len(first.classes)
    if not few:
        content["matrices"] = pack(add_up(cells, labels, count))
    chosen = study.verdict.chosen or next(iter(study.cells), None)
    kept = runs if few or chosen is None else [
        run for run in (study.teacher, *controls_of(chosen).values(), *chosen.runs.values()) if run
    ]  # fmt: skip
    read_answers(kept)
    kept = [run for run in kept if run in number and len(run.answers) == len(labels)]
    order = labels.argsort(kind="stable")
    answers = np.stack([run.answers.astype(int) for run in kept])[:, order]
    content["answered"] = [number[run] for run in kept]
    content["labels"] = pack(labels[order].astype(np.uint8))
    content["answers"] = pack(((answers - labels[order]) % count).astype(np.uint8).T)
    content["images"] = len(labels)
    for run in kept:
        run.forget_predictions()
    return content


def controls_of(cell: Cell) -> dict[int, Run]:
    """The students alone of a cell's seeds."""
    controls = cell.method.controls
    return {seed: controls[seed] for seed in cell.runs if seed in controls}


def add_up(cells: list[Cell], labels: np.ndarray, count: int) -> np.ndarray:
    """The sums of the confusion matrices of every cell and of its students alone."""
    sums = np.zeros((len(cells), 2, count, count), dtype="<u4")
    places: dict[Run, list[tuple[int, int]]] = {}
    for number, cell in enumerate(cells):
        for side, runs in enumerate((cell.runs, controls_of(cell))):
            for run in runs.values():
                places.setdefault(run, []).append((number, side))
    for part in watched([*pack_by_pack(places)], "counting the answers"):
        for run in part:
            matrix = count_answers(labels, run.answers, count)
            for place in places[run]:
                sums[place] += matrix.astype("<u4")
        forget_answers(part)
    return sums


def embed_digits(networks: dict[str, Run]) -> dict[str, Any] | None:
    """The images on which a network errs, as one picture, with the networks' logits.

    Returns:
        None where there are no such images, or they are not at hand.
    """
    networks, _ = with_logits(networks)
    if not networks:
        return None
    *_, last = networks.values()
    labels, indices = last.predictions.labels, last.predictions.indices
    wrong = torch.stack([run.predictions.classes != labels for run in networks.values()]).any(0)
    places = wrong.nonzero().flatten()[:MOST_IMAGES]
    try:
        pool = load_images(last) if len(places) else None
    except UserError:
        return None  # the section about disagreements says so
    if pool is None or indices.max() >= len(pool.labels):
        return None
    if not torch.equal(pool.labels[indices], labels):
        return None
    images = pool.take(indices[places])[0]
    step = math.ceil(max(images.shape[2:]) / MOST_SIDE)
    images = torch.nn.functional.avg_pool2d(images, step) if step > 1 else images
    images = images[: max(1, MOST_VALUES // math.prod(images.shape[1:]))]
    places = places[: len(images)]
    logits = [run.predictions.logits[places].double().numpy() for run in networks.values()]
    below = [values - values.max(1, keepdims=True) for values in logits]
    steps = [np.maximum(-values.min(1), 1e-6) / 255 for values in below]
    coded = [np.rint(-v / s[:, None]).astype(np.uint8) for v, s in zip(below, steps, strict=True)]
    order = last.predictions.labels.argsort(stable=True).argsort()[places]
    return {
        "networks": [*networks],
        "names": [run.name for run in networks.values()],
        "count": len(places),
        "wrong": int(wrong.sum()),
        "height": images.shape[2],
        "width": images.shape[3],
        "places": pack(order.numpy().astype("<u4")),
        "labels": pack(labels[places].numpy().astype("<u2")),
        "logits": pack(np.stack(coded)),
        "steps": pack(np.stack(steps).astype("<f4")),
        "columns": 32,
        "sprite": draw_sprite(images.numpy(), 32),
    }


def draw_sprite(images: np.ndarray, columns: int) -> str:
    """Put images (n, channels, height, width) side by side: a PNG of 16 greys, or of 64 colours."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, height, width, 3 if channels == 3 else 1))
    sheet[:n] = images.transpose(0, 2, 3, 1)[..., : sheet.shape[-1]]
    sheet = sheet.reshape(rows, columns, height, width, -1).swapaxes(1, 2)
    sheet = sheet.reshape(rows * height, columns * width, -1).clip(0, 1)
    if channels == 3:
        picture = Image.fromarray((255 * sheet).astype(np.uint8)).quantize(64)
        bits = 8
    else:  # ink on paper
        picture = Image.fromarray(np.rint(15 * (1 - sheet[..., 0])).astype(np.uint8), mode="P")
        picture.putpalette([value for grey in range(16) for value in [17 * grey] * 3])
        bits = 4
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True, bits=bits)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def pack(array: np.ndarray) -> str:
    """Deflate an array's bytes and write them as base64."""
    packed = zlib.compress(np.ascontiguousarray(array).tobytes(), 9)
    return base64.b64encode(packed).decode()
