"""Print the test errors of a study's networks, and what raising the bias of an omitted class does.

    python docs/hinton_tables.py outputs/why_hinton
    python docs/hinton_tables.py outputs/why_omit --omitted 3

Errors are of all test images, mean over seeds (least to most). The bias is that of the omitted
class, raised by what leaves the fewest errors on the validation images.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from kd.config.schema import Config, Data
from kd.data.module import ImageDataModule
from kd.report.predictions import read_predictions
from kd.training.checkpoint import load_checkpoint
from kd.training.run_folder import RESULTS
from kd.training.train_run import predict

RAISES = torch.arange(0, 10, 0.1)


def raised(logits: Tensor, omitted: int, bias: float) -> Tensor:
    """The logits with the bias of one class raised: (images, classes)."""
    found = logits.clone()
    found[:, omitted] += bias
    return found


def errors(logits: Tensor, labels: Tensor) -> int:
    """How many images are answered wrongly."""
    return int((logits.argmax(1) != labels).sum())


def best_raise(run: Path, omitted: int, data: ImageDataModule) -> float:
    """By how much the bias is raised: the fewest errors on the validation images."""
    network = load_checkpoint(run / "model.ckpt")
    logits = predict(network, data.val_dataloader())
    labels = data.pool.labels[data.indices["val"]]
    wrong = [errors(raised(logits, omitted, float(bias)), labels) for bias in RAISES]
    return float(RAISES[wrong.index(min(wrong))])


def rows(study: Path, omitted: int | None) -> pd.DataFrame:
    """One row per run: its errors, and with the bias raised."""
    runs = pd.read_csv(study / RESULTS)
    data = ImageDataModule(Data(), Config().seed)
    found = []
    for run in runs[["run", "stage", "kd/T", "data/views"]].itertuples(index=False):
        logits, labels, _ = read_predictions(study / run.run / "predictions.npz")
        row = {"stage": run.stage, "T": run[2], "views": run[3], "errors": errors(logits, labels)}
        if omitted is not None and run.stage != "teacher":
            data.setup()
            bias = best_raise(study / run.run, omitted, data)
            row["bias"] = bias
            row["errors, bias raised"] = errors(raised(logits, omitted, bias), labels)
            of_class = labels == omitted
            for name, value in (("", 0.0), (", bias raised", bias)):
                wrong = errors(raised(logits, omitted, value)[of_class], labels[of_class])
                row[f"{omitted}s right, %{name}"] = 100 * (1 - wrong / int(of_class.sum()))
        found.append(row)
    return pd.DataFrame(found)


def spread(values: pd.Series) -> str:
    """Mean (least to most)."""
    return f"{values.mean():.4g} ({values.min():.4g} to {values.max():.4g})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the study, as outputs/why_hinton")
    parser.add_argument("--omitted", type=int, help="class that students have not seen, as 3")
    given = parser.parse_args()
    found = rows(given.study, given.omitted)
    groups = found.groupby(["stage", "T", "views"], dropna=False, sort=False)
    names = [name for name in found if name not in ("stage", "T", "views")]
    print(f"| network | n | {' | '.join(names)} |\n{'|---' * (2 + len(names))}|")
    for (stage, temperature, views), runs in groups:
        network = stage if pd.isna(temperature) else f"distilled, T = {temperature:g}"
        network += "" if views == "none" else f", data.views={views}"
        cells = ["–" if runs[name].isna().all() else spread(runs[name]) for name in names]
        print(f"| {network} | {len(runs)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
