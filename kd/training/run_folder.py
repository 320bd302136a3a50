"""Runs' folders: complete or not, of these settings or not; the table of a study's runs."""

import contextlib
import csv
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import BaseFileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader
from yaml import YAMLError
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from kd.config.node import Node
from kd.config.schema import Config, flatten, relevant
from kd.errors import UserError, shown
from kd.files import file_hash, lock, remove_leftovers, replacing
from kd.training import packs
from kd.training.large_tables import write_tables
from kd.training.unfinished import below_study

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
RESULTS = "results.csv"
LARGE = "results.parquet"  # the same, of a study that has packs
METRICS = "metrics.json"
MOST_BYTES = 2**20  # of metrics.json, which has a few kB
STAGES = ("teacher", "student", "distill")  # of runs
EPOCHS = "epochs"  # the folder of every epoch's checkpoint, where these are kept
LOCKS = ".locks"  # the folder in a study for the locks of its runs
HISTORY = "history.csv"
FILES = (HISTORY, "model.ckpt", "predictions.npz")
OF_LOGGERS = ("hparams.yaml", "metrics.csv")  # as conf/logger has them
HYDRA_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")


def write_metrics(directory: Path, content: dict[str, Any]) -> None:
    """Write a run's ``metrics.json``: from now on it is complete."""
    with replacing(directory / METRICS) as beside:
        beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_history(directory: Path, rows: Sequence[dict[str, float]]) -> str:
    """Write a run's ``history.csv``, one row per epoch, and return its sha256.

    Args:
        directory: of the run.
        rows: the figures of every epoch by their tags.
    """
    tags = sorted(rows[0], key=lambda tag: tag.partition("/")[0])
    with replacing(directory / HISTORY) as beside:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["epoch", *tags])
            writer.writeheader()
            writer.writerows({"epoch": epoch, **row} for epoch, row in enumerate(rows, 1))
        return file_hash(beside)


def read_metrics(directory: Path) -> dict[str, Any] | None:
    """The metrics of a run, their form checked; None where it is not complete.

    Args:
        directory: of the run; it may be in a pack instead.

    Raises:
        UserError: ``metrics.json`` is there but cannot be read, or is not of a run's form.
    """
    path = directory / METRICS
    if not path.exists():
        pack = packs.pack_of(directory)
        return pack.row(below_study(directory)) if pack else None
    try:
        if not path.is_file():
            raise ValueError("no file")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("larger than 1 MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half a character has no UTF-8
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it to train again") from error
    if wrong := malformed(content):
        raise UserError(f"{path}: {wrong}; delete it to train again")
    return content


def malformed(content: Any) -> str | None:
    """What of a run's metrics is not as it must be, in words; None where all is well."""
    if not isinstance(content, dict):
        return f"holds {shown(json.dumps(content))}, no metrics"
    for key, value in content.items():
        if not isinstance(value, PLAIN):
            return f"{key} is {shown(json.dumps(value))}, not a plain value"
        if key.startswith("data/augment/") and not FIGURE[0](value):
            return f"{key} is {shown(json.dumps(value))}, not {FIGURE[1]}"
    stage = content.get("stage")
    for key, (fits, allowed) in (FORM | (DISTILLED if stage == "distill" else ALONE)).items():
        if key not in content:
            return f"has no {key}"
        if not fits(content[key]):
            return f"{key} is {shown(json.dumps(content[key]))}, not {allowed}"
    return None


def _between(low: float, high: float) -> Callable[[Any], bool]:
    """A check that a value is a number from ``low`` to ``high``; NaN is not."""
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high


PLAIN = str | int | float | bool | None
# What a value must be: a check, and words for it.
FIGURE = _between(-sys.float_info.max, sys.float_info.max), "a finite number"
SHARE = _between(0, 1), "a number from 0 to 1"
COUNT = (lambda v: type(v) is int and v >= 0), "a whole number"
TEXT = (lambda v: isinstance(v, str) and v != ""), "a text"
NOTHING = (lambda v: v is None), "null"
# What readers of a run's metrics rely on.
FORM = {
    "stage": (lambda v: v in STAGES, f"one of {', '.join(STAGES)}"),
    **dict.fromkeys(("seed", "epochs"), COUNT),
    "data/fingerprint": TEXT,
    **dict.fromkeys(("val/acc", "test/acc"), SHARE),
    **dict.fromkeys(("test/loss", "test/ece", "time/fit_s"), FIGURE),
}
DISTILLED = {
    **dict.fromkeys(("teacher/checkpoint", "teacher/sha256", "kd/method"), TEXT),
    **dict.fromkeys(("kd/T", "fidelity/kl"), FIGURE),
    **dict.fromkeys(("kd/alpha", "fidelity/agreement"), SHARE),
}
ALONE = dict.fromkeys(("teacher/checkpoint", "teacher/sha256"), NOTHING)


def has_runs(study: Path) -> bool:
    """Whether a run of the study is complete."""
    return any(study.glob(f"*/*/{METRICS}")) or any(pack.names for pack in packs.packs_of(study))


class Busy(UserError):
    """Another process has what this one needs for itself."""


def take(study: Path, name: Path | str, busy: str) -> BaseFileLock:
    """Take one of a study's locks, until it is released or the process ends.

    Args:
        study: its folder.
        name: of the lock.
        busy: what to say if another process has it.

    Raises:
        Busy: another process has it.
    """
    held = lock(study / LOCKS / name, wait=False)
    try:
        held.acquire()
    except Timeout as error:
        raise Busy(busy) from error
    return held


def hold(directory: Path) -> BaseFileLock:
    """Keep a run's folder to this process, until the lock is released or the process ends.

    Raises:
        Busy: another process has it.
    """
    study = directory.parents[1]
    busy = f"{directory}: another process is training this run; wait for it to end, or give "
    return take(study, directory.relative_to(study), busy + "study=NEW")


def remove_empty(directory: Path, levels: int = 3) -> None:
    """Remove a folder that was made for nothing, and those above it that are empty then.

    Args:
        directory: the folder.
        levels: how many folders at most; 3 are a run's, its stage's and its study's.
    """
    for folder in (directory, *directory.parents)[:levels]:
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def is_complete(directory: Path) -> bool:
    """Whether a run has ended, there or in a pack."""
    return is_own(directory) or packs.pack_of(directory) is not None


def is_own(directory: Path) -> bool:
    """Whether a run is complete in a folder of its own."""
    return (directory / METRICS).exists()


_Reader = get_yaml_loader()  # what OmegaConf takes for a number, say 1e-08, is one
if yaml.__with_libyaml__:  # its parser in C takes a tenth of the time
    from yaml.cyaml import CParser  # pyright: ignore

    class _Reader(CParser, get_yaml_loader()):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)


def _saved_settings(directory: Path, pack: packs.Pack | None) -> dict[str, Any]:
    """The settings of a complete run, flat, in its own folder or in a pack.

    Raises:
        UserError: they cannot be read.
    """
    path = directory / ".hydra" / "config.yaml"
    if pack:
        return flatten(pack.note["config"]) | pack.settings(below_study(directory))
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Reader)
        saved = flatten(tree)
        if "stage" not in saved:
            raise ValueError("it holds no configuration of a run")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: cannot be read ({reason}); overwrite=true trains again"
        ) from error
    return saved


def refuse_other_settings(
    config: Config,
    directory: Path,
    before: dict[str, Any],
    split: str | None,
    codes: dict[str, str | None],
    pack: packs.Pack | None = None,
) -> None:
    """Make sure that the complete run in ``directory`` is the one the configuration asks for.

    Args:
        config: what is asked for.
        directory: of the run.
        before: its metrics.
        split: the fingerprint of the data as they are now; None where they are not at hand.
        codes: the digests of the user's own code as it is now.
        pack: that the run lies in, if it has no folder of its own.

    Raises:
        UserError: naming the settings that differ, or the teacher or the images if these have
            changed since.
    """
    saved = _saved_settings(directory, pack)
    # What the run does not say, because the setting is younger, had its default.
    saved = flatten(Config(model=type(config.model)(), kd=type(config.kd)())) | saved
    here = relevant(config)
    differing = [f"{k} ({saved[k]} there, {here[k]} here)" for k in here if saved[k] != here[k]]
    if before["teacher/checkpoint"] and not differing:
        with contextlib.suppress(OSError):  # a complete run needs its teacher no more
            if before["teacher/sha256"] != hashes(teacher_paths(before)):
                differing = ["the teacher (it was trained again since)"]
    if split is not None and before["data/fingerprint"] != split and not differing:
        differing = [f"the images ({before['data/fingerprint']} there, {split} here)"]
    changed = [key for key, digest in codes.items() if before.get(key) not in (None, digest)]
    if changed and not differing:
        differing = [f"your own code of the {key.removeprefix('code/')}" for key in changed]
    if config.keep_epochs and not (directory / EPOCHS).is_dir():
        differing.append("keep_epochs (false there, true here)")
    if differing:
        raise UserError(
            f"{directory}: holds a complete run of other settings: {', '.join(differing)}; "
            "give study=NEW to keep it, or overwrite=true to replace it"
        )


def teacher_paths(metrics: Mapping[str, Any]) -> list[str]:
    """The checkpoints that taught a distilled run: one, or those of an ensemble."""
    paths = metrics["teacher/checkpoint"]
    return paths.split(os.pathsep) if ":" in metrics["teacher/sha256"] else [paths]


def hashes(paths: Iterable[Path | str]) -> str:
    """sha256 of the files, joined by colons."""
    return ":".join(file_hash(Path(path)) for path in paths)


def clear(directory: Path, resumed: bool = False) -> None:
    """Remove what an earlier attempt left, its ``metrics.json`` first; its log is written over.

    Args:
        directory: of the run.
        resumed: whether the training resumes; the epochs that it has kept then stay.
    """
    (directory / METRICS).unlink(missing_ok=True)
    for pattern in ("events.out.tfevents.*", *OF_LOGGERS, *FILES):
        for path in directory.glob(pattern):
            path.unlink()
    for name in (METRICS, *FILES, *(f".hydra/{name}" for name in HYDRA_FILES)):
        remove_leftovers(directory / name)
    if not resumed:
        shutil.rmtree(directory / EPOCHS, ignore_errors=True)


def save_hydra(config: Config, hydra: DictConfig | Node | None, folder: Path) -> None:
    """Write ``config.yaml``, ``hydra.yaml`` and ``overrides.yaml`` as Hydra does, resolved."""
    contents: list[Any] = [asdict(config)]
    if hydra is not None:
        plain = isinstance(hydra, Node)
        node = dict(hydra) if plain else OmegaConf.to_container(hydra, enum_to_str=True)
        contents += [{"hydra": node}, [*hydra.overrides.task]]
    # As OmegaConf.to_yaml, without making a configuration of each first, which takes as long again.
    style: dict[str, Any] = {
        "default_flow_style": False,
        "allow_unicode": True,
        "sort_keys": False,
    }
    for name, content in zip(HYDRA_FILES, contents, strict=False):
        with replacing(folder / name) as beside, beside.open("w", encoding="utf-8") as file:
            yaml.dump(content, file, get_omega_conf_dumper(), **style)


def scan(
    study: Path,
    runs: Sequence[str] = tuple(f"{stage}/*" for stage in STAGES),
    packed: bool = True,
) -> tuple[list[Row], dict[str, str]]:
    """The metrics of a study's complete runs, and those that cannot be used.

    Args:
        study: its folder.
        runs: patterns of the runs' folders below it.
        packed: whether runs in packs are wanted too.

    Returns:
        rows with ``run``, a folder below the study; and by such a folder why it is left out.
    """
    rows, refused = [], {}
    found = sorted(path.parent for some in runs for path in study.glob(f"{some}/{METRICS}"))
    for run in (path for path in found if not path.name.startswith(".")):
        name = str(run.relative_to(study))
        try:
            name.encode()
            row = read_metrics(run)
        except UnicodeEncodeError:
            refused[name.encode(errors="replace").decode()] = (
                "the folder's name is not UTF-8; rename it"
            )
        except UserError as error:  # one damaged run does not take the others along
            refused[name] = shortened(error, run)
        else:
            if row is not None:
                rows.append({"run": name, **row} | {"run": name})
    own = {row["run"] for row in rows}.union(refused)
    if packed:
        rows += (row for row in packs.rows_of(study, runs) if row["run"] not in own)
    return rows, refused


def shortened(error: UserError, run: Path) -> str:
    """What an error says of a file in a run's folder, without the path of the folder."""
    return str(error).removeprefix(f"{run}/")


def read_study(study: Path) -> list[Row]:
    """The metrics of every complete run of a study, with ``run``: its folder below the study."""
    rows, refused = scan(study)
    _tell(study, refused)
    return rows


def _tell(study: Path, refused: Mapping[str, str]) -> None:
    """Warn of runs that are left out."""
    for name, reason in refused.items():
        log.warning("left out: %s/%s: %s", study, name, reason)


def write_results(study: Path, say: bool = True) -> Path:
    """Rebuild ``results.csv`` of a study from its runs' metrics: accuracies in [0, 1].

    Of a study with packs there is ``results.parquet`` too.

    Args:
        study: its folder.
        say: which runs are left out.
    """
    path, large = study / RESULTS, study / LARGE
    with lock(study / LOCKS / "results.lock"):  # read within: the last to write knows all
        rows, refused = scan(study, packed=False)
        if say:
            _tell(study, refused)
        remove_leftovers(path)
        remove_leftovers(large)
        if any(pack.names for pack in packs.packs_of(study)):
            with replacing(path) as beside, replacing(large) as tables:
                write_tables(study, rows, refused, beside, tables)
            return path
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    return path
