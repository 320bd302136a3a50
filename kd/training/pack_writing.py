"""Writes packs, whose form ``packs.py`` describes."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd._startup import lazy
from kd.files import replacing_folder
from kd.training.packs import HISTORY, NOTE, PREDICTIONS, RUNS, WEIGHTS

pa: Any = lazy("pyarrow")
pq: Any = lazy("pyarrow.parquet")


@dataclass
class Result:
    """What a run came to, to be packed."""

    name: str  # its folder below the study
    metrics: dict[str, Any]
    words: list[str]
    settings: dict[str, Any]
    history: list[dict[str, float]]
    classes: np.ndarray  # (test images,), uint8 or uint16
    weights: dict[str, Tensor] | None
    logits: np.ndarray | None = None  # (test images, classes), float16


@dataclass
class Common:
    """What the runs of a pack share."""

    config: dict[str, Any]
    hydra: dict[str, Any]
    indices: np.ndarray | None  # (test images,); None where no run has been tested
    labels: np.ndarray | None
    failed: dict[str, str] = field(default_factory=dict)  # by the run's name


def write(folder: Path, results: Sequence[Result], common: Common) -> None:
    """Write a pack in place of one of its name.

    Args:
        folder: of the pack.
        results: of its runs.
        common: what they share.
    """
    from safetensors.torch import save

    with replacing_folder(folder) as beside:
        rows = [
            {
                "run": r.name,
                **r.metrics,
                "words": json.dumps(r.words),
                "settings": json.dumps(r.settings),
            }
            for r in results
        ]
        if rows:
            _save(beside / RUNS, _columns(rows))
            epochs = [
                {"row": number, "epoch": epoch, **figures}
                for number, result in enumerate(results)
                for epoch, figures in enumerate(result.history, 1)
            ]
            _save(beside / HISTORY, _columns(epochs))
            _save(beside / PREDICTIONS, _by_image(results, common))
        with_weights = [n for n, result in enumerate(results) if result.weights is not None]
        if with_weights:
            kept = [results[number].weights or {} for number in with_weights]
            stacked = {name: torch.stack([each[name].cpu() for each in kept]) for name in kept[0]}
            (beside / WEIGHTS).write_bytes(save(stacked, {"rows": json.dumps(with_weights)}))
        note = {"config": common.config, "hydra": common.hydra, "failed": common.failed}
        (beside / NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")
        for path in beside.iterdir():  # the content reaches the disk before the name does
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; what a row lacks is None."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}


def _by_image(results: Sequence[Result], common: Common) -> dict[str, Any]:
    """Predictions image by image: what students agree on is the same byte in a row."""

    def in_bytes(values: np.ndarray) -> Any:
        size = values[0].nbytes
        return pa.Array.from_buffers(
            pa.binary(size), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
        )

    columns = {
        "index": common.indices,
        "label": common.labels,
        "classes": in_bytes(np.stack([result.classes for result in results], axis=1)),
    }
    logits = [result.logits for result in results if result.logits is not None]
    if logits:
        columns["logits"] = in_bytes(np.stack(logits, axis=1))
    return columns


def _save(path: Path, columns: dict[str, Any]) -> None:
    losses = [key for key in columns if key.endswith("loss")]
    pq.write_table(
        pa.table(columns),
        path,
        compression="zstd",
        compression_level=9,
        use_dictionary=[key for key in columns if key not in losses],
        use_byte_stream_split=losses,  # of digits that do not repeat: a fifth less
        write_page_checksum=True,
    )
