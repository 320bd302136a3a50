"""The jobs of a sweep and their configurations: the first composed, the others copied from it.

Hydra composes every job's anew from all files, which takes ten times as long as a copy: for 20 jobs
as long as an epoch of their students.
"""

import functools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from kd.config.messages import explain
from kd.config.naming import run_name
from kd.config.node import Node
from kd.config.schema import Config, relevant
from kd.config.validation import validate
from kd.errors import UserError

if TYPE_CHECKING:
    from kd.training.fit import Share

Compose = Callable[[DictConfig, list[str]], DictConfig]


@dataclass(eq=False)  # compared and hashed by identity
class Job:
    """One run of the sweep and what became of it."""

    config: Config
    hydra: DictConfig  # the node of that name that Hydra composed
    name: str  # of its folder, below its study
    directory: Path
    share: "Share | None" = None  # of a group's training
    apart: str = ""  # why it trains apart from others
    lock: Any = None  # of its run's folder, while its group trains
    outcome: Any = None  # a kd.training.run.Outcome, once it is complete
    failure: Exception | None = None
    dismiss: Any = None  # of a search: which students are to leave their group early, see group.py
    dismissed: bool = False  # it has left its group, and will not be a run
    waits: bool = False  # it failed for want of memory or of the folder, and may continue later
    packed: bool = False  # it will be one of a pack, whose lock is held

    def put_off(self, error: Exception) -> None:
        """Fail the job for now: what is trained of its group is kept."""
        self.failure, self.waits = error, True

    def unlock(self) -> None:
        """Let go of its folder, if it is held."""
        if self.lock:
            self.lock.release()

    @property
    def study(self) -> Path:
        """The folder of its study."""
        return self.directory.parents[1]

    @property
    def error(self) -> str | None:
        """Why it failed, in a line; None if it did not."""
        if self.failure is None:
            return None
        return explain(self.failure) or f"{type(self.failure).__name__}: {self.failure}"

    @property
    def accuracy(self) -> float:
        """The test accuracy of the complete run, in [0, 1]."""
        return self.outcome.metrics["test/acc"]


def plain_node(job: Job) -> Node:
    """A job's node ``hydra``, to be sent or kept."""
    if isinstance(job.hydra, Node):
        return job.hydra
    return Node(OmegaConf.to_container(job.hydra, enum_to_str=True))  # pyright: ignore


def compose_jobs(
    compose: Compose, sweep: DictConfig, words: Sequence[Sequence[str]], first: int = 0
) -> list[Job]:
    """The jobs of a sweep, each with its configuration, checked.

    Args:
        compose: Hydra's ``load_sweep_config``, or :func:`copying` of it.
        sweep: the configuration of the sweep.
        words: of each job's command.
        first: the number of the first job.

    Raises:
        UserError: a setting is wrong, a job is a report, or two jobs of different settings have one
            folder.
    """
    jobs = [make_job(compose(sweep, list(given)), at) for at, given in enumerate(words, first)]
    found: dict[Path, Job] = {}
    for job in jobs:  # settings that a stage does not use make no other run
        refuse_same_folder(job, found.setdefault(job.directory, job))
    return jobs


def refuse_same_folder(job: Job, other: Job) -> None:
    """Make sure that two jobs with one folder are the same run.

    Raises:
        UserError: naming the settings that differ.
    """
    mine, its = relevant(job.config), relevant(other.config)
    if differing := [key for key in mine if mine[key] != its.get(key)]:
        raise UserError(
            f"{job.name}: two jobs of this sweep have this folder and differ in "
            f"{', '.join(differing)}; give study=NAME to each, in a command of its own"
        )


def make_job(cfg: DictConfig, number: int = 0) -> Job:
    """A job of what Hydra composed of it, checked.

    Raises:
        UserError: a setting is wrong, or the stage trains nothing.
    """
    config = validate(cfg)
    if config.stage == "report":
        raise UserError("stage=report: reports one study at a time, without -m")
    if config.stage == "export":
        raise UserError("stage=export: goes without -m; export.run=all exports several networks")
    if config.stage == "unpack":
        raise UserError("stage=unpack: unpacks one run at a time, without -m")
    # What hydra.sweep.dir and subdir stand for, which would check all settings once more.
    name = run_name(config, list(cfg.hydra.overrides.task))
    directory = Path(config.output_dir, config.study, name).absolute()
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
        cfg.hydra.runtime.output_dir = str(directory)
    cfg.hydra.sweep.subdir = name
    return Job(config, cfg.hydra, name, directory)


def copying(loader: ConfigLoader) -> Compose:
    """``loader.load_sweep_config`` with the same results, in less time.

    A job is copied from an earlier one where they differ in values of keys alone. The same words
    again give the same object.
    """
    compose, parser = loader.load_sweep_config, OverridesParser.create()
    first: dict[tuple[str, ...], bytes] = {}  # pickled: a fifth of the time that deepcopy takes
    known: dict[tuple[str, ...], DictConfig] = {}

    @functools.cache
    def is_choice(key: str) -> bool:
        """Whether a word of this key chooses a file."""
        return bool(loader.get_group_options(key))

    @functools.cache
    def read(word: str) -> tuple[Override, str]:
        """What a word overrides, and whether it gives a key a value, makes a choice, or other."""
        override = parser.parse_override(word)
        changes = override.is_add() or override.is_force_add() or override.is_delete()
        composite = isinstance(override.value(), dict | list)
        if changes or composite or override.package is not None or override.is_hydra_override():
            return override, "other"
        return override, "choice" if is_choice(override.key_or_group) else "value"

    def load(master_config: DictConfig, words: list[str]) -> DictConfig:
        readings = [read(word) for word in words]
        kind = tuple(
            str(o.input_line) if role != "value" else o.key_or_group for o, role in readings
        )
        keys = [override.key_or_group for override, role in readings if role == "value"]
        others = [override.key_or_group for override, role in readings if role == "other"]
        if any(_overlap(key, other) for key in keys for other in others):
            return compose(master_config, words)  # their order matters
        if kind not in first:
            composed = compose(master_config, words)
            if not any(key in composed.hydra.runtime.choices for key in keys):
                first[kind] = pickle.dumps(composed)  # whoever gets it may change it
            return composed
        return _with_values(pickle.loads(first[kind]), readings)

    def load_sweep_config(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        words = tuple(sweep_overrides)
        if words not in known:
            known[words] = load(master_config, sweep_overrides)
        return known[words]

    return load_sweep_config


def _with_values(cfg: DictConfig, readings: Sequence[tuple[Override, str]]) -> DictConfig:
    """The configuration with the values that a job's words give."""
    for override, role in readings:
        if role == "value":
            OmegaConf.update(cfg, override.key_or_group, override.value())
    of_task = [override for override, _ in readings if not override.is_hydra_override()]
    cfg.hydra.overrides.task = [override.input_line for override in of_task]
    cfg.hydra.job.override_dirname = _dirname(of_task, cfg)
    return cfg


def _dirname(overrides: Sequence[Override], cfg: DictConfig) -> str:
    """Hydra's ``hydra.job.override_dirname``: the words in a row, sorted."""
    style = cfg.hydra.job.config.override_dirname
    words = [o.input_line for o in overrides if o.key_or_group not in style.exclude_keys]
    return style.item_sep.join(sorted(filter(None, words))).replace("=", style.kv_sep)


def _overlap(one: str, other: str) -> bool:
    """Whether two keys are the same, or one lies within the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def read_lists(overrides: Sequence[Override]) -> list[list[str]]:
    """The words of a sweep's command, for each key those that it sweeps over."""
    found: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            found[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            found[key] = [f"{key}={override.get_value_element_as_str()}"]
    return [*found.values()]
