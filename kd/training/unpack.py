"""``stage=unpack``: an ordinary folder of a run that lies in a pack."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from kd.config.node import Node
from kd.config.schema import Config
from kd.config.validation import validate
from kd.data.module import ImageDataModule
from kd.errors import UserError
from kd.training import run_folder
from kd.training.book import epoch_line
from kd.training.complete import find_alone
from kd.training.fit import Trained
from kd.training.loggers import Loggers
from kd.training.logging import train_log
from kd.training.material import Accelerator, Material
from kd.training.packs import NotKept, Pack, frame_of, pack_of
from kd.training.train_run import assess, save_run
from kd.training.unfinished import below_study

log = logging.getLogger(__name__)

ON_CPU = Accelerator("cpu", torch.device("cpu"))


def unpack_chosen(config: Config) -> Path:
    """Unpack the run that ``store.run`` names, or the best on validation of the study's packs.

    Returns:
        its folder.

    Raises:
        UserError: no pack of the study has it, or its weights have not been kept.
    """
    study, name = Path(config.output_dir, config.study), config.store.run
    if name is None:
        frame = frame_of(study, ["run", "val/acc"])
        if frame.empty:
            raise UserError(f"{study}: has no packs; a sweep makes them from store.compact_from on")
        name = str(frame.sort_values("val/acc", ascending=False, kind="stable")["run"].iloc[0])
    directory = study / name
    unpack(directory)
    if not run_folder.is_own(directory):
        raise UserError(
            f"store.run={name}: no pack of {study} has it; {run_folder.RESULTS} there lists all"
        )
    run_folder.write_results(study)
    return directory


def unpack_teachers(config: Config) -> None:
    """Make folders of the teachers that a distillation asks for, if these lie in packs.

    Args:
        config: of the run; of no distillation it has none.

    Raises:
        UserError: see :func:`unpack`.
    """
    if config.stage != "distill":
        return
    given = config.teacher.checkpoint or [
        Path(config.output_dir, config.study, "teacher", f"seed={config.teacher.seed}")
    ]
    for path in map(Path, given if isinstance(given, list) else [given]):
        unpack(path.parent if path.name == "model.ckpt" else path)


def unpack(directory: Path) -> None:
    """Make an ordinary folder of a run if it lies in a pack.

    Its network is tested again, because a pack keeps classes alone.

    Args:
        directory: that the run is to have.

    Raises:
        UserError: its weights have not been kept, or its images are not those that it was made of.
    """
    directory = directory.absolute()
    if run_folder.is_own(directory) or (pack := pack_of(directory)) is None:
        return
    name = below_study(directory)
    if (weights := pack.weights(name)) is None:
        raise NotKept(
            f"{directory}: its weights have not been kept (store.weights=none or best); train it "
            "by itself with overwrite=true"
        )
    with run_folder.hold(directory), train_log() as write_log:
        run_folder.clear(directory)  # what a killed attempt has left
        config, words = _config_of(pack, name), pack.words(name)
        row, rows = pack.row(name), pack.history(name)
        data = _data_of(config, row)
        with Loggers(config, directory) as loggers:
            trained = Trained(weights, row["epochs"], rows, row["time/fit_s"], loggers)
            tested = assess(config, Material(ON_CPU, data, []), trained)
            if (here := tested.figures["test/acc"]) != (there := row["test/acc"]):
                said = "%s: test accuracy %.4f here, %.4f where it was trained: machines round"
                log.warning("%s differently", said % (name, here, there))
            write_log(directory)
            log.debug("unpacked from %s", pack.folder)
            for epoch, figures in enumerate(rows, 1):
                log.debug("%s", epoch_line(figures, epoch, len(rows)))
            node = Node(pack.note["hydra"]).with_words(words)
            run_folder.save_hydra(config, node, directory / ".hydra")
            alone = None
            if config.stage == "distill":
                alone = find_alone(config, directory.parents[1], words)
            told = {k: row[k] for k in row if k.startswith(("test/", "fidelity/", "time/"))}
            save_run(config, data, trained, tested._replace(figures=told), row, directory, alone)


def _config_of(pack: Pack, name: str) -> Config:
    """The settings of a run."""
    tree: Any = OmegaConf.create(pack.note["config"])
    for key, value in pack.settings(name).items():
        OmegaConf.update(tree, key, value)
    return validate(tree)


def _data_of(config: Config, row: dict[str, Any]) -> ImageDataModule:
    """The images of a run.

    Raises:
        UserError: they are not at hand, or have changed since.
    """
    data = ImageDataModule(config.data, config.seed, ON_CPU.device)
    data.prepare_data()
    data.setup()
    if data.fingerprint != row["data/fingerprint"]:
        raise UserError(
            f"data.dir={config.data.dir}: the images have changed since the run was trained "
            f"({row['data/fingerprint']} there, {data.fingerprint} here)"
        )
    return data
