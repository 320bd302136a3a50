"""The schema of every setting: its type, its bounds, and what is said when a value breaks them.

Imported before anything heavy, so that ``--help`` and a mistyped key answer at once.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PROJECT = Path(__file__).resolve().parents[2]


class UserError(Exception):
    """A mistake that the user can mend; its message is one line: what is wrong, what to do."""


class OutOfMemory(UserError):
    """Less memory is free than is needed."""


def setting(default: Any, allowed: str, check: Any) -> Any:
    """A field whose value must pass ``check``; ``allowed`` says in words what does."""
    make = {"default_factory": lambda: list(default)} if isinstance(default, list) else {}
    return field(**(make or {"default": default}), metadata={"allowed": allowed, "check": check})


def number(default: float, allowed: str, check: Any) -> Any:
    """A finite number within bounds."""
    return setting(default, allowed, lambda value: math.isfinite(value) and check(value))


def count(default: int, least: int = 1, most: int = 1_000_000) -> Any:
    """A whole number within bounds; ``most`` is far more than makes sense, and less than harms."""
    allowed = f"a whole number from {least} to {most}"
    return setting(default, allowed, lambda value: least <= value <= most)


def seed(default: int = 0) -> Any:
    """A seed of a random generator; 0 is as good as any."""
    most = 2**32 - 1
    return setting(default, f"a whole number from 0 to {most}", lambda value: 0 <= value <= most)


def choice(default: str, *options: str) -> Any:
    """One of a few words, the default among them."""
    return setting(default, " or ".join((default, *options)), lambda v: v in (default, *options))


FOLDER = "a folder's path, without line breaks or other control characters"


def is_path(value: Any) -> bool:
    """Whether a value can be a path: not empty, and no line break or the like in it."""
    return isinstance(value, str) and value != "" and value.isprintable()


def folder(default: str) -> Any:
    """A folder's path."""
    return setting(default, FOLDER, is_path)


def is_checkpoint_choice(value: Any) -> bool:
    """Whether ``teacher.checkpoint`` is null, a path or a list of paths."""
    paths = value if isinstance(value, list) else [value]
    return value is None or (bool(paths) and all(map(is_path, paths)))


@dataclass
class Augment:
    """Views of the training images, drawn anew for every batch."""

    shift: float = number(0.0, "a number of pixels from 0 to 14", lambda v: 0 <= v <= 14)
    rotate: float = number(0.0, "a number of degrees from 0 to 180", lambda v: 0 <= v <= 180)
    mixup: float = number(0.0, "a number from 0 to 1", lambda v: 0 <= v <= 1)
    extra: int = count(0, least=0, most=1_000)

    @property
    def active(self) -> bool:
        """Whether a view differs from its image; to have ``extra`` of the same is nothing."""
        return bool(self.shift or self.rotate or self.mixup)


@dataclass
class Data:
    """The data set and its split."""

    dataset: str = setting("MNIST", "a class of torchvision.datasets", str.isidentifier)
    dir: str = folder("data")
    source: str = choice("verified", "torchvision", "folder")
    files: str | None = setting(
        None, f"null or {FOLDER}", lambda value: value is None or is_path(value)
    )
    split: str = choice("official", "pooled")
    val_size: int = count(10_000)
    test_size: int = count(10_000)
    seed: int = seed()
    batch_size: int = count(128)
    augment: Augment = field(default_factory=Augment)


@dataclass
class Model:
    """What every network has; ``lr`` is the learning rate that suits it with ``optim=adam``."""

    name: str = "?"
    hidden: int = count(32, most=100_000)
    dropout: float = number(0.1, "a number from 0 to below 1", lambda v: 0 <= v < 1)
    lr: float = number(1e-2, "a number above 0", lambda v: v > 0)
    has_maps: ClassVar[bool] = False  # whether its layers keep the image's height and width


@dataclass
class MLP(Model):
    """Flatten, one hidden layer, logits."""

    name: str = "mlp"


@dataclass
class CNN(Model):
    """Convolutions with pooling, one hidden layer, logits."""

    name: str = "cnn"
    channels: list[int] = setting(
        [8, 16],
        "one to four whole numbers from 1 to 10000, as in [8,16]",
        lambda v: 1 <= len(v) <= 4 and all(1 <= c <= 10_000 for c in v),
    )
    has_maps: ClassVar[bool] = True


@dataclass
class Distillation:
    """What every method has: temperature, weight of the labels, and when the teacher takes part."""

    method: str = "?"
    T: float = number(2.0, "a number above 0, up to 1000", lambda v: 1e-3 <= v <= 1e3)
    alpha: float = number(0.5, "a number from 0 to 1", lambda v: 0 <= v <= 1)
    warmup_epochs: int = count(0, least=0)
    stop_epoch: int | None = setting(
        None,
        "null or a whole number from 1 to 1000000",
        lambda v: v is None or 1 <= v <= 1_000_000,
    )
    # Of the method: whether it compares hidden representations, if these must be equally wide, and
    # if the student's passes through a regressor where they are not; whether it compares maps.
    needs_hidden: ClassVar[bool] = False
    needs_same_width: ClassVar[bool] = False
    regresses: ClassVar[bool] = False
    needs_maps: ClassVar[bool] = False
    # How many times batch³ numbers a student takes while it trains.
    cubes: ClassVar[int] = 0


@dataclass
class Hinton(Distillation):
    """Hinton et al. 2015, in either direction of the KL divergence."""

    method: str = "hinton"
    direction: str = choice("forward", "reverse")


def weight(default: float) -> Any:
    """A method's own weight: 0 or more."""
    return number(default, "a number from 0 up", lambda v: v >= 0)


@dataclass
class DKD(Distillation):
    """Zhao et al. 2022: target and non-target terms apart."""

    method: str = "dkd"
    target_weight: float = weight(1.0)
    nontarget_weight: float = weight(8.0)


@dataclass
class DTKD(Distillation):
    """Wei & Bai 2024: dynamic temperatures, beside plain distillation."""

    method: str = "dtkd"
    dynamic_weight: float = weight(3.0)
    static_weight: float = weight(1.0)


@dataclass
class LogitStd(Distillation):
    """Sun et al. 2024: standardised logits."""

    method: str = "logit_std"
    term_weight: float = weight(10.0)


@dataclass
class DIST(Distillation):
    """Huang et al. 2022: correlations between classes and within them."""

    method: str = "dist"
    between_weight: float = weight(2.0)
    within_weight: float = weight(2.0)


@dataclass
class RKD(Distillation):
    """Park et al. 2019: distances and angles between samples."""

    method: str = "rkd"
    distance_weight: float = weight(25.0)
    angle_weight: float = weight(50.0)
    kd_weight: float = weight(0.0)
    needs_hidden: ClassVar[bool] = True
    cubes: ClassVar[int] = 6


@dataclass
class OfHidden(Distillation):
    """Methods that compare hidden representations by one loss: its weight."""

    term_weight: float = weight(1.0)
    needs_hidden: ClassVar[bool] = True


@dataclass
class SP(OfHidden):
    """Tung & Mori 2019: similarities between samples."""

    method: str = "sp"
    term_weight: float = weight(3000.0)


@dataclass
class PKT(OfHidden):
    """Passalis & Tefas 2018: probabilities of picking another sample."""

    method: str = "pkt"
    term_weight: float = weight(30000.0)


@dataclass
class CC(OfHidden):
    """After Peng et al. 2019: correlation congruence."""

    method: str = "cc"
    term_weight: float = weight(0.02)
    needs_same_width: ClassVar[bool] = True


@dataclass
class Hint(OfHidden):
    """Romero et al. 2015: the hidden representations themselves."""

    method: str = "hint"
    term_weight: float = weight(100.0)
    regresses: ClassVar[bool] = True


@dataclass
class Cosine(OfHidden):
    """PyTorch's tutorial: the cosine between hidden representations."""

    method: str = "cosine"
    needs_same_width: ClassVar[bool] = True


@dataclass
class AT(Distillation):
    """Zagoruyko & Komodakis 2017: attention maps."""

    method: str = "at"
    term_weight: float = weight(1000.0)
    needs_maps: ClassVar[bool] = True


@dataclass
class FunctionMatching(Hinton):
    """Beyer et al. 2022: the teacher's predictions on views that both see, no labels."""

    method: str = "function_matching"
    T: float = number(1.0, "a number above 0, up to 1000", lambda v: 1e-3 <= v <= 1e3)
    alpha: float = number(0.0, "a number from 0 to 1", lambda v: 0 <= v <= 1)


@dataclass
class Optim:
    """Adam and its learning rate over the training."""

    lr: float = number(1e-2, "a number above 0", lambda v: v > 0)
    schedule: str = choice("cosine", "constant")
    eps: float = number(1e-8, "a number above 0", lambda v: v > 0)


@dataclass
class Trainer:
    """Where and how long a run trains."""

    accelerator: str = choice("auto", "cpu", "gpu")
    max_epochs: int = count(10)
    group_mb: int = count(128)


@dataclass
class Teacher:
    """Which teacher a distillation learns from."""

    checkpoint: Any = setting(None, "null, a file or a list of files", is_checkpoint_choice)
    seed: int = seed()


@dataclass
class Config:
    """Everything that a run depends on."""

    stage: str = choice("teacher", "student", "distill", "report")
    study: str = setting(
        "main",
        "a name of 1 to 100 of the characters A-Z, a-z, 0-9, '.', '_' and '-', not beginning "
        "with '.'",
        lambda v: re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", v),
    )
    seed: int = seed()
    checkpoint: str = choice("last", "best")
    keep_epochs: bool = False
    overwrite: bool = False
    output_dir: str = folder("outputs")
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=MLP)
    kd: Distillation = field(default_factory=Hinton)
    optim: Optim = field(default_factory=Optim)
    trainer: Trainer = field(default_factory=Trainer)
    teacher: Teacher = field(default_factory=Teacher)


MODELS: dict[str, type[Model]] = {"cnn": CNN, "mlp": MLP}
_METHODS = (Hinton, DKD, DTKD, LogitStd, DIST, RKD, SP, PKT, CC, Hint, Cosine, AT, FunctionMatching)
METHODS: dict[str, type[Distillation]] = {cls.method: cls for cls in _METHODS}

# Keys that say where things lie or what to do with them: no result depends on them.
PLACES = {
    "study",
    "output_dir",
    "overwrite",
    "keep_epochs",
    "data.dir",
    "data.files",
    "trainer.group_mb",
}


def validate(cfg: DictConfig) -> Config:
    """The typed configuration of a run, every value checked.

    Args:
        cfg: what Hydra composed; a node ``hydra`` in it is passed over.

    Raises:
        UserError: a key is unknown or missing, or a value is of the wrong type or out of bounds.
    """
    keys = [key for key in cfg if key != "hydra"]
    try:
        tree = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(_unresolved(error)) from error
    schema = Config(
        model=_pick(MODELS, tree, "model", "name"), kd=_pick(METHODS, tree, "kd", "method")
    )
    _compare_keys(dataclasses.asdict(schema), tree)
    typed = OmegaConf.structured(schema)
    _assign(typed, tree, dataclasses.fields(schema), schema)
    config = OmegaConf.to_object(typed)
    _check_together(config)
    return config


def _unresolved(error: OmegaConfBaseException) -> str:
    """What to say of a value ``${…}`` that stands for nothing."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, UserError):
        link = link.__cause__ or link.__context__
    why = " ".join(str(link or error).split("\n")[0].split())
    return f"{error.full_key}: {why}" if error.full_key else why


def _check_together(config: Config) -> None:
    """Settings that are right each by itself, and do not go together."""
    if config.stage == "distill" and config.kd.needs_maps and not config.model.has_maps:
        raise UserError(
            f"kd.method={config.kd.method}: compares feature maps, which model={config.model.name} "
            "does not have; give model=cnn"
        )
    if config.data.files is not None and config.data.source != "verified":
        raise UserError(
            f"data.files={config.data.files}: works only with data.source=verified; here "
            f"data.source={config.data.source} reads data.dir={config.data.dir}, so leave it out"
        )
    if config.data.augment.extra and not config.data.augment.active:
        raise UserError(
            f"data.augment.extra={config.data.augment.extra}: would repeat the images; say how "
            "views differ by data.augment.shift, rotate or mixup"
        )


def _pick(classes: dict[str, type], tree: dict, group: str, key: str) -> Any:
    node = tree.get(group)
    value = node.get(key) if isinstance(node, dict) else node
    if value not in classes:
        known = ", ".join(classes)
        raise UserError(f"{group}.{key}={shown(value)}: unknown; choose {group}=NAME from {known}")
    return classes[value]()


def _compare_keys(expected: dict, given: dict, prefix: str = "") -> None:
    for key in given.keys() - expected.keys():
        raise UserError(unknown_key(prefix + key, [prefix + k for k in expected]))
    for key in expected.keys() - given.keys():
        raise UserError(f"{prefix}{key}: missing; give it as {prefix}{key}=VALUE")
    for key, value in expected.items():
        if isinstance(value, dict):
            if not isinstance(given[key], dict):
                raise UserError(
                    f"{prefix}{key}={shown(given[key])}: is a group of keys, not a value"
                )
            _compare_keys(value, given[key], f"{prefix}{key}.")


def unknown_key(key: str, known: list[str]) -> str:
    """What to say of a key that is none of the ``known`` ones."""
    if key in known:
        return f"{key}: no such key of the chosen {key.split('.')[0]}"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"
    return f"{key}: no such key; {hint}"


def _assign(node: DictConfig, tree: dict, fields: Any, schema: Any, prefix: str = "") -> None:
    """Write the values of ``tree`` into the typed ``node``, one by one, to name the wrong one."""
    for spec in fields:
        value, key = tree[spec.name], prefix + spec.name
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(schema, spec.name)):
            inner = getattr(schema, spec.name)
            _assign(node[spec.name], value, dataclasses.fields(inner), inner, f"{key}.")
            continue
        kind = {int: "a whole number", float: "a number", bool: "true or false"}.get(spec.type)
        allowed = spec.metadata.get("allowed", kind or "a text")
        try:
            node[spec.name] = value
            typed = node[spec.name]
            typed = OmegaConf.to_container(typed) if OmegaConf.is_config(typed) else typed
            good = spec.metadata.get("check", lambda _: True)(typed)
        except (OmegaConfBaseException, TypeError, OverflowError):
            good = False
        if not good or (isinstance(value, bool) != (spec.type is bool)):
            raise UserError(f"{key}={shown(value)}: must be {allowed}")


def shown(value: Any) -> str:
    """A value as an error's one line shows it: nothing unprintable, and not too long."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in _text(value))
    return text if len(text) <= 200 else f"{text[:100]}… ({len(text)} characters)"


def _text(value: Any) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(inner)}" for key, inner in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def flatten(config: Config | dict) -> dict[str, Any]:
    """``{"kd.T": 2.0, "seed": 0, …}``: every setting by its name on the command line."""
    flat: dict[str, Any] = {}
    tree = config if isinstance(config, dict) else dataclasses.asdict(config)

    def visit(node: dict, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                visit(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    visit(tree, "")
    return flat


def relevant(config: Config) -> dict[str, Any]:
    """The settings that the run's result depends on: the others may differ when it is resumed."""
    groups = () if config.stage == "distill" else ("kd.", "teacher.")
    # Verified files are the same wherever they lie; of others the folder is all that tells them.
    places = PLACES if config.data.source == "verified" else PLACES - {"data.dir"}
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in places and not key.startswith(groups)
    }


def run_name(config: Config, overrides: list[str]) -> str:
    """The run's folder below its study: stage and parameters, then what else was overridden.

    Args:
        config: the run's configuration.
        overrides: the command line's ``key=value`` words, as Hydra records them for the job.

    Returns:
        such as ``distill/T=2.0,alpha=0.5,seed=0,optim.lr=0.001``; safe as a path.
    """
    if config.stage == "report":
        return "."
    flat = flatten(config)
    named = {"seed": config.seed}
    if config.stage == "distill":
        named = {"T": config.kd.T, "alpha": config.kd.alpha, **named}
    told = {"stage", "seed", "kd.T", "kd.alpha", "experiment"} | PLACES
    unused = () if config.stage == "distill" else ("kd", "teacher")
    extra = {}
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        if key not in told and key.split(".")[0] not in unused:
            extra[key] = _text(flat[key]) if key in flat else value
    # A method may bring views along: they are named like those that one asks for.
    views = {key: flat[key] for key in flat if key.startswith("data.augment.") and flat[key]}
    words = [f"{k}={v}" for k, v in [*named.items(), *sorted((views | extra).items())]]
    return f"{config.stage}/{_shorten(','.join(map(_shorten, words)), most=240)}"


def _shorten(name: str, most: int = 80) -> str:
    """The name without what a path cannot hold; what is too long for one ends in a hash."""
    safe = re.sub(r"[^\w.,=+-]", "_", name)
    if len(safe) <= most:
        return safe
    return f"{safe[: most - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


_naming: list[str] = []  # the resolvers at work


@contextlib.contextmanager
def _naming_by(resolver: str) -> Iterator[None]:
    """Refuse a setting that stands for a name which is made of the settings."""
    if _naming:
        raise UserError(f"${{{resolver}:}} is made of the settings and cannot be one of them")
    _naming.append(resolver)
    try:
        yield
    finally:
        _naming.clear()


def _run_subdir(*, _root_: DictConfig) -> str:
    """Hydra's name for a job's folder; a wrong setting ends here and leaves no trace."""
    with _naming_by("run_subdir"):
        return run_name(validate(_root_), list(_root_.hydra.overrides.task))


def _study_dir(*, _root_: DictConfig) -> str:
    """Hydra's name for a sweep's folder, checked before a sweep writes there."""
    named = [spec for spec in dataclasses.fields(Config) if spec.name in ("output_dir", "study")]
    with _naming_by("study_dir"):
        given = {spec.name: _root_.get(spec.name) for spec in named}
    _assign(OmegaConf.structured(Config()), given, named, Config())
    return f"{given['output_dir']}/{given['study']}"


OmegaConf.register_new_resolver("study_dir", _study_dir, replace=True)
OmegaConf.register_new_resolver("run_subdir", _run_subdir, replace=True)
OmegaConf.register_new_resolver("project_dir", lambda: str(PROJECT), replace=True)
