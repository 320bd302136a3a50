"""Seconds for one epoch of student and teacher: as tutorials write it, and as this project does.

    python benchmarks/epoch.py            # 3 epochs of each, side by side in turn

Both train by Lightning's Trainer on the same 50,000 images with the same layers, learning rate and
batch size, and validate on the same 10,000 at the epoch's end. The tutorials' way is that of
Lightning's own MNIST tutorial: torchvision's data set with ToTensor and Normalize, a DataLoader,
figures logged to the progress bar at every step, a Trainer with its defaults. Ours: images in
memory, the faster memory layout, fused Adam, figures logged once an epoch. Prints the median of n
epochs of each and of their ratios, taken pair by pair.
"""

import argparse
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from pytorch_lightning.callbacks import Checkpoint
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from kd.config.schema import Config
from kd.config.validation import validate
from kd.data.module import ImageDataModule
from kd.files import PROJECT
from kd.models.network import build_model
from kd.training.callbacks import Record
from kd.training.fit import train
from kd.training.loggers import Loggers
from kd.training.material import choose_accelerator
from kd.training.modules import StudentModule, TeacherModule
from kd.training.unfinished import State


def tutorial_network(stage: str) -> nn.Sequential:
    """The talk's networks as one writes them down, in torch's default layout."""
    head = [nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)]
    if stage == "student":
        return nn.Sequential(*head)
    first = [nn.Conv2d(1, 8, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, *head)


class TutorialModule(pl.LightningModule):
    """A classifier as Lightning's tutorials write it."""

    def __init__(self, network: nn.Module, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr
        self.accuracy = MulticlassAccuracy(10, average="micro")
        self.val_accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple, batch_index: int) -> torch.Tensor:
        """The loss of one batch, logged with its accuracy."""
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_acc", self.accuracy(logits, labels), prog_bar=True)
        return loss

    def validation_step(self, batch: tuple, batch_index: int) -> None:
        """Loss and accuracy on validation images."""
        images, labels = batch
        logits = self.network(images)
        self.log("val_loss", F.cross_entropy(logits, labels), prog_bar=True)
        self.log("val_acc", self.val_accuracy(logits, labels), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain Adam."""
        return torch.optim.Adam(self.network.parameters(), lr=self.lr)


class EpochClock(Checkpoint):
    """Times each training epoch with its validation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self.started)


def tutorial_epoch(config: Config, data: ImageDataModule) -> float:
    """Seconds of one epoch, the tutorials' way."""
    transform = Compose([ToTensor(), Normalize((0.1307,), (0.3081,))])
    dataset = MNIST(config.data.dir, train=True, transform=transform)
    train, val = (Subset(dataset, data.indices[part].tolist()) for part in ("train", "val"))
    size = config.data.batch_size
    loaders = DataLoader(train, batch_size=size, shuffle=True), DataLoader(val, batch_size=size)
    clock = EpochClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, callbacks=[clock], default_root_dir=folder
        )
        trainer.fit(TutorialModule(tutorial_network(config.stage), config.optim.lr), *loaders)
    return clock.seconds[0]


def our_epoch(config: Config, data: ImageDataModule) -> float:
    """Seconds of one epoch, our way."""
    network = build_model(config.model, config.seed)
    module = {"teacher": TeacherModule, "student": StudentModule}[config.stage]
    clock = EpochClock()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "study", config.stage, "run")
        record = Record(State(run.parents[1], "epoch", ""), [(0, Loggers(config, run))])
        fitted = module(network, config.optim)
        train(config, choose_accelerator("cpu"), fitted, [record, clock], data=data)
    return clock.seconds[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=3, help="epochs of each (default: 3)")
    count = parser.parse_args().n
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\.utilities\._pytree")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, lightning {pl.__version__}, n = {count} epochs of each"
    )
    print("| one epoch of | tutorial, s | ours, s | ratio |\n|---|---|---|---|")
    with initialize_config_dir(str(Path(PROJECT, "conf")), version_base="1.3"):
        for stage in ("student", "teacher"):
            words = [f"stage={stage}", "trainer.max_epochs=1"]
            config = validate(compose("config", overrides=words))
            data = ImageDataModule(config.data, config.seed)
            data.prepare_data()
            data.setup()
            pairs = [(tutorial_epoch(config, data), our_epoch(config, data)) for _ in range(count)]
            theirs, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratios = [theirs / ours for theirs, ours in pairs]
            print(
                f"| {stage} | {theirs:.2f} | {ours:.2f} | {statistics.median(ratios):.1f} "
                f"({min(ratios):.1f}–{max(ratios):.1f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
