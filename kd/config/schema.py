"""The schema of every setting: its type, its bounds and its default.

The settings of a network are in its file in ``kd.models``, those of a method in ``kd.methods``.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, cast

from kd.errors import Value
from kd.fields import (
    FOLDER,
    choice,
    count,
    folder,
    is_path,
    maybe_count,
    number,
    seed,
    setting,
    share,
    sweepable,
)
from kd.methods.base import Distillation
from kd.methods.hinton import Hinton
from kd.models.base import Model, learning_rate
from kd.models.custom import Source
from kd.models.mlp import MLP


def is_checkpoint_choice(value: Value) -> bool:
    """Whether ``teacher.checkpoint`` is null, a path or a list of paths."""
    paths = value if isinstance(value, list) else [value]
    return value is None or (bool(paths) and all(map(is_path, paths)))


@dataclass
class Augment:
    """Views of the training images, drawn anew for every batch."""

    shift: float = number(0.0, "a number of pixels from 0 to 1000", lambda v: 0 <= v <= 1000)
    rotate: float = number(0.0, "a number of degrees from 0 to 180", lambda v: 0 <= v <= 180)
    mixup: float = number(0.0, "a number from 0 to 1", lambda v: 0 <= v <= 1)
    extra: int = count(0, least=0, most=1_000)

    @property
    def active(self) -> bool:
        """Whether a view differs from its image; to have ``extra`` of the same is nothing."""
        return bool(self.shift or self.rotate or self.mixup)


AMOUNT = "a whole number from 1 to 1000000, or a share between 0 and 1"


def is_amount(value: Any) -> bool:
    """Whether a value can be a number of images, or a share of those at hand."""
    return 0 < value < 1 if isinstance(value, float) else 1 <= value <= 1_000_000


def is_path_or_null(value: Any) -> bool:
    """Whether a value is null or can be a path."""
    return value is None or is_path(value)


def is_size(value: Value) -> bool:
    """Whether ``data.size`` is null or a height and a width."""
    if value is None or not isinstance(value, list):
        return value is None
    return len(value) == 2 and all(type(v) is int and 1 <= v <= 4096 for v in value)


@dataclass
class Data:
    """The data set and its split; and what a student trains on of it."""

    dataset: str = setting("MNIST", "a class of torchvision.datasets", str.isidentifier)
    dir: str = folder("data")
    source: str = choice("verified", "torchvision", "folder", "npz", "images", "sklearn")
    files: str | None = setting(None, f"null or {FOLDER}", is_path_or_null)
    file: str | None = setting(None, f"null or {FOLDER}", is_path_or_null)
    size: Any = setting(None, "null or height and width, as in [32,32]", is_size)
    split: str = choice("official", "pooled")
    val_size: Any = setting(10_000, AMOUNT, is_amount)
    test_size: Any = setting(10_000, AMOUNT, is_amount)
    seed: int = seed()
    train_size: int | None = sweepable(
        setting(
            None,
            "null or a whole number from 1 to 100000000",
            lambda v: v is None or 1 <= v <= 10**8,
        )
    )
    unlabelled: bool = False
    label_noise: float = sweepable(share())
    omit: list[int] = sweepable(
        setting([], "a list of class numbers, as in [3]", lambda v: all(0 <= c <= 10**6 for c in v))
    )
    batch_size: int = count(128)
    views: str = choice("none", "shift1", "shift2")
    centre: bool = False
    augment: Augment = field(default_factory=Augment)


@dataclass
class Optim:
    """The optimiser, and its learning rate over the training."""

    name: str = choice("adam", "adamw", "sgd")
    lr: float = learning_rate(1e-2)
    schedule: str = sweepable(choice("cosine", "constant", "onecycle"))
    betas: list[float] = sweepable(
        setting(
            [0.9, 0.999],
            "two numbers from 0 to below 1, as in [0.9,0.999]",
            lambda v: len(v) == 2 and all(0 <= beta < 1 for beta in v),
        )
    )
    eps: float = sweepable(number(1e-8, "a number above 0", lambda v: v > 0))
    weight_decay: float = sweepable(number(0.0, "a number from 0 up", lambda v: v >= 0))
    momentum: float = sweepable(share())
    label_smoothing: float = sweepable(share())


@dataclass
class Trainer:
    """Where and how long a run trains."""

    accelerator: str = choice("auto", "cpu", "gpu")
    max_epochs: int = sweepable(count(10))
    limit_batches: int | None = maybe_count()
    patience: int | None = sweepable(maybe_count())
    precision: str = choice("32", "bf16")
    group_mb: int = count(128)
    stack: str = choice("auto", "always", "never")


@dataclass
class Teacher:
    """Which teacher a distillation learns from, and what of its logits (kd.training.controls)."""

    checkpoint: Any = setting(None, "null, a file or a list of files", is_checkpoint_choice)
    seed: int = seed()
    control: str = choice("none", "permuted", "confidence")
    clip: float | None = setting(
        None, "null or a number above 0", lambda v: v is None or 0 < v < math.inf
    )
    model: Source = field(default_factory=Source)

    @property
    def alters(self) -> bool:
        """Whether a student is taught other logits than the teacher's own."""
        return self.control != "none" or self.clip is not None


SEEDS = "a list of different seeds from 0 to 4294967295, as in [0,1,2]"


def are_seeds(value: Any) -> bool:
    """Whether a value can be the seeds of a setting that is trained several times."""
    return 0 < len(value) == len(set(value)) and all(0 <= seed < 2**32 for seed in value)


@dataclass
class Search:
    """The search for good settings of ``hydra/sweeper=search``; no run knows of it."""

    trials: int = count(100, most=100_000)
    batch: int = count(50, most=100_000)
    sampler: str = choice("tpe", "random")
    metric: str = setting(
        "val/acc",
        "val/acc or val/loss, for no test or training figure may choose",
        lambda v: v in ("val/acc", "val/loss"),
    )
    seed: int = seed()
    seeds: list[int] = setting([0], SEEDS, are_seeds)
    halving: int | None = setting(
        None, "null or a whole number from 2 to 1000", lambda v: v is None or 2 <= v <= 1000
    )
    confirm: int = count(10, least=0, most=1000)


@dataclass
class Export:
    """Which network ``stage=export`` writes, and how it is checked and measured."""

    run: str = setting(
        "best",
        "best, all, or the path of one run or of one checkpoint; an ensemble is exported a member "
        "at a time",
        is_path,
    )
    tolerance: float = number(0.002, "a number from 0 to 1", lambda v: 0 <= v <= 1)
    calibration: int = count(1_000)
    passes: int = count(200)


@dataclass
class Store:
    """How a large sweep keeps its runs, and which one ``stage=unpack`` makes a folder of."""

    compact_from: int = count(1000)
    pack: int = count(1000, most=10_000)
    weights: str = choice("all", "best", "none")
    logits: bool = False
    run: str | None = setting(
        None, "null or the name of a run as results.csv has it", lambda v: v is None or is_path(v)
    )


def are_targets(value: dict[str, Value]) -> bool:
    """Whether each of the nodes says by its ``_target_`` what is to be made."""
    return all(isinstance(v, dict) and is_path(v.get("_target_")) for v in value.values())


OF_STUDIES = ("report", "export", "unpack")  # the stages that train nothing


@dataclass
class Config:
    """Everything that a run depends on."""

    stage: str = choice("teacher", "student", "distill", *OF_STUDIES)
    study: str = setting(
        "main",
        "a name of 1 to 100 of the characters A-Z, a-z, 0-9, '.', '_' and '-', not beginning "
        "with '.'",
        lambda v: re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", v),
    )
    seed: int = sweepable(seed())
    checkpoint: str = sweepable(choice("last", "best"))
    keep_epochs: bool = False
    overwrite: bool = False
    trust_code: bool = False
    open: bool = False
    output_dir: str = folder("outputs")
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=MLP)
    kd: Distillation = field(default_factory=Hinton)
    optim: Optim = field(default_factory=Optim)
    trainer: Trainer = field(default_factory=Trainer)
    teacher: Teacher = field(default_factory=Teacher)
    search: Search = field(default_factory=Search)
    export: Export = field(default_factory=Export)
    store: Store = field(default_factory=Store)
    logger: dict[str, Any] = setting(
        {"tensorboard": {"_target_": "kd.training.curves.Curves", "directory": "{folder}"}},
        "loggers by their names, each with its _target_ and arguments, as in conf/logger",
        are_targets,
    )
    tags: list[str] = setting(
        [],
        "a list of words of the characters A-Z, a-z, 0-9, '.', '_', '+' and '-', as in tags=[a,b]",
        lambda tags: all(re.fullmatch(r"[A-Za-z0-9._+-]{1,64}", tag) for tag in tags),
    )
    print_config: bool = False
    callbacks: dict[str, Any] = setting(
        {},
        "callbacks by their names, each with its _target_ and arguments, as in conf/callbacks",
        are_targets,
    )


# No result depends on the settings that say where things lie or what to do with them.
_WHERE = {"study", "output_dir", "data.dir", "data.files", "data.file"}
_HOW = {"overwrite", "trust_code", "open", "keep_epochs", "trainer.group_mb", "trainer.stack"}
NOT_RELEVANT = _WHERE | _HOW
# Nor on these, in which runs that train together may differ too.
_BESIDE_RUNS = {"search": Search, "export": Export, "store": Store}
_OF_THESE = {
    f"{key}.{spec.name}" for key, of in _BESIDE_RUNS.items() for spec in dataclasses.fields(of)
}
BESIDE = {"logger", "tags", "print_config", "export", "store"} | _OF_THESE
TARGETS = {"logger", "callbacks"}  # keys whose values are nodes of the user's own


ARGS = "args"  # of a network of other code: a setting whose value is a dictionary


def flatten(config: Config | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"kd.T": 2.0, "seed": 0, …}``: every setting by its name on the command line."""
    tree = config if isinstance(config, dict) else dataclasses.asdict(config)
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and key != ARGS and prefix + key not in TARGETS:
            flat |= flatten(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def relevant(config: Config) -> dict[str, Any]:
    """Return the settings that the result depends on; the others may differ on resumption."""
    groups = () if config.stage == "distill" else ("kd.", "teacher.")
    # Verified files are the same wherever they lie; of others their place is all that tells them.
    verified = config.data.source == "verified"
    others = NOT_RELEVANT if verified else NOT_RELEVANT - {"data.dir", "data.file"}
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in others | BESIDE and not key.startswith(groups)
    }
