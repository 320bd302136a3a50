"""Print how a study's networks do on test images that are shifted by a pixel.

    python docs/shifted_tables.py outputs/why_knows

Accuracy in %, mean over seeds (least to most): on the test images, and on their eight shifts.
"""

import argparse
from itertools import product
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kd.config.schema import Config, Data
from kd.data.module import ImageDataModule
from kd.training.checkpoint import load_checkpoint
from kd.training.run_folder import RESULTS


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Images (…, height, width) moved by at most a pixel either way; what comes in is black."""
    height, width = images.shape[-2:]
    around = F.pad(images, (1, 1, 1, 1))
    return around[..., 1 - down : 1 - down + height, 1 - right : 1 - right + width]


@torch.no_grad()
def accuracies(run: Path, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """In %, on plain images and on shifted ones."""
    network = load_checkpoint(run / "model.ckpt")
    found = {
        move: 100 * float((network(shifted(images, *move)).argmax(1) == labels).float().mean())
        for move in product((-1, 0, 1), repeat=2)
    }
    plain = found.pop((0, 0))
    return plain, sum(found.values()) / len(found)


def spread(values: pd.Series) -> str:
    """Mean (least to most)."""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the study, as outputs/why_knows")
    study = parser.parse_args().study
    data = ImageDataModule(Data(), Config().seed)
    data.setup()
    images, labels = data.pool.take(data.indices["test"])
    runs = pd.read_csv(study / RESULTS)
    found = [accuracies(study / run, images, labels) for run in runs["run"]]
    runs[["plain", "shifted"]] = pd.DataFrame(found, index=runs.index)
    taught = runs["teacher/checkpoint"].fillna("–").map(lambda paths: Path(paths).parent.name)
    groups = runs.groupby(["stage", taught, "kd/T"], dropna=False, sort=False)
    print("| network | last teacher | T | n | plain | shifted |\n|---|---|---|---|---|---|")
    for (stage, teacher, temperature), those in groups:
        cells = [spread(those[name]) for name in ("plain", "shifted")]
        shown = "–" if pd.isna(temperature) else f"{temperature:g}"
        print(f"| {stage} | {teacher or '–'} | {shown} | {len(those)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
