"""From what Hydra composed to the typed configuration, every value checked."""

import dataclasses
import difflib
from collections.abc import Collection, Hashable, Iterable
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kd.config.schema import Config
from kd.errors import UserError, chain, shown
from kd.fields import Settings
from kd.methods import METHODS, find_method
from kd.models import MODELS, find_model
from kd.models.custom import Source

# What a field admits that does not say it.
ALLOWED = {int: "a whole number", float: "a number", bool: "true or false"}

# What others call our settings, in small letters.
SYNONYMS = {
    **dict.fromkeys(("temperature", "temp", "tau"), "t"),
    **dict.fromkeys(("epochs", "epoch", "n_epochs", "num_epochs"), "max_epochs"),
    **dict.fromkeys(("learning_rate", "learningrate"), "lr"),
    **dict.fromkeys(("batch", "batchsize", "bs"), "batch_size"),
    **dict.fromkeys(("device", "gpu"), "accelerator"),
    **dict.fromkeys(("wd", "l2"), "weight_decay"),
    "random_seed": "seed",
}


def validate(cfg: DictConfig) -> Config:
    """Return the typed configuration of a run, every value checked.

    Args:
        cfg: what Hydra composed; a node ``hydra`` in it is passed over.

    Raises:
        UserError: a key is unknown or missing, or a value is of the wrong type or out of bounds.
    """
    keys = [str(key) for key in cfg if key != "hydra"]
    try:
        container = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    except OmegaConfBaseException as error:
        # Of a value that stands for nothing OmegaConf says it; a resolver of ours says it itself.
        said = next((link for link in chain(error) if isinstance(link, UserError)), error)
        why = " ".join(str(said).split("\n")[0].split())
        raise UserError(f"{error.full_key}: {why}" if error.full_key else why) from error
    tree = cast("dict[str, Any]", container)
    method = find_method(_choice(tree.get("kd"), "method"))
    network = find_model(_choice(tree.get("model"), "name"))
    config = check_values(Config(kd=method(), model=network()), tree)
    check_together(config)
    return config


def _choice(node: Any, key: str) -> Any:
    """Return the name of a method or a network; of a group that is none, what stands for it."""
    return cast("dict[str, Any]", node).get(key) if isinstance(node, dict) else node


def check_values(schema: Config, tree: dict[str, Any], only: Collection[str] = ()) -> Config:
    """Fill the schema with the values of ``tree``: OmegaConf checks types, the fields bounds.

    Args:
        schema: has the network's and the method's own settings.
        tree: values by key, groups within.
        only: the keys at the top to take from it; all by default.

    Raises:
        UserError: a key is unknown or missing, or a value is of the wrong type or out of bounds.
    """
    typed, admitted = _typed(schema)
    _fill(typed, admitted, schema, tree, only)
    return cast("Config", OmegaConf.to_object(typed))


def check_each(config: Config, key: str, values: Iterable[Any]) -> list[Any]:
    """Values of one of a run's settings with its type, each checked as :func:`validate` does.

    Args:
        config: has the network's and the method's own settings.
        key: of the setting, as on the command line.
        values: given.

    Raises:
        UserError: one is of the wrong type or out of bounds.
    """
    group: Any = config
    *groups, name = key.split(".")
    for within in groups:
        group = getattr(group, within)
    typed = OmegaConf.structured(group)
    kind = get_type_hints(group.__class__)[name]
    (spec,) = (spec for spec in dataclasses.fields(group) if spec.name == name)
    found: list[Any] = []
    for value in values:
        if not _set(typed, spec, value, is_flag=kind is bool):
            raise _refused(key, value, spec, kind)
        given = typed[name]
        found.append(OmegaConf.to_object(given) if OmegaConf.is_config(given) else given)
    return found


def fill(schema: Settings, tree: dict[str, Any], prefix: str) -> Settings:
    """Fill any other schema with values, checked in the same way.

    Args:
        schema: a dataclass of fields with bounds.
        tree: values by key, groups within; none is missing.
        prefix: of the keys, for messages.

    Raises:
        UserError: a key is unknown or missing, or a value is of the wrong type or out of bounds.
    """
    typed = OmegaConf.structured(schema)
    _fill(typed, {}, schema, tree, prefix=prefix)
    return cast("Settings", OmegaConf.to_object(typed))


# By the schema: OmegaConf's form of it, and the values in that which are admitted, by their keys.
_known: dict[Hashable, tuple[DictConfig, dict[str, str]]] = {}


def _typed(schema: Config) -> tuple[DictConfig, dict[str, str]]:
    """OmegaConf's form of a schema, whose values are to be set: for each of the jobs of a sweep.

    Making it takes longer than setting and checking the values. Those that the job before had are
    there already.
    """
    key = type(schema.kd), type(schema.model), repr(schema)
    if key not in _known:
        _known[key] = OmegaConf.structured(schema), {}
    return _known[key]


def _fill(
    typed: DictConfig,
    admitted: dict[str, str],
    schema: Any,
    tree: dict[str, Any],
    only: Iterable[str] = (),
    prefix: str = "",
) -> None:
    """Fill a group of keys, and the groups within."""
    kinds = get_type_hints(schema.__class__)
    specs = {spec.name: spec for spec in dataclasses.fields(schema)}
    for name in tree:
        if name not in specs:
            raise UserError(unknown_key(prefix + name, [prefix + known for known in specs]))
    for name in only or specs:
        key, below = prefix + name, getattr(schema, name)
        if dataclasses.is_dataclass(below):
            within = tree.get(name, {})
            if not isinstance(within, dict):
                raise UserError(f"{key}={shown(within)}: is a group of keys, not a value")
            group = cast("dict[str, Any]", within)
            _fill(typed[name], admitted, below, group, prefix=f"{key}.")
        elif name not in tree:
            raise UserError(f"{key}: missing; give it as {key}=VALUE")
        elif admitted.get(key) == (told := repr(tree[name])):  # 1, 1.0 and True differ in it
            continue
        elif not _set(typed, specs[name], tree[name], is_flag=kinds[name] is bool):
            admitted.pop(key, None)
            raise _refused(key, tree[name], specs[name], kinds[name])
        else:
            admitted[key] = told


def _refused(key: str, value: Any, spec: dataclasses.Field[Any], kind: type) -> UserError:
    """What to say of a value that is not admitted."""
    allowed = spec.metadata.get("allowed", ALLOWED.get(kind, "a text"))
    return UserError(f"{key}={shown(value)}: must be {allowed}")


def _set(typed: DictConfig, spec: dataclasses.Field[Any], value: Any, is_flag: bool) -> bool:
    """Set a key's value; return whether its type and its bounds admit it."""
    try:
        typed[spec.name] = value
        found = typed[spec.name]
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        good = "check" not in spec.metadata or spec.metadata["check"](found)
    except (OmegaConfBaseException, TypeError, OverflowError):
        return False
    return bool(good) and isinstance(value, bool) == is_flag


def check_together(config: Config) -> None:
    """Refuse settings that are right each by itself, and do not go together."""
    data = config.data
    if config.stage == "distill" and config.kd.needs_maps and not config.model.has_maps:
        own = isinstance(config.model, Source)
        mend = "name them by model.map_layers=[LAYER,…]" if own else "give model=cnn"
        raise UserError(
            f"kd.method={config.kd.method}: compares feature maps, which model={config.model.name} "
            f"does not have; {mend}"
        )
    if config.optim.momentum and config.optim.name != "sgd":
        raise UserError(
            f"optim.momentum={config.optim.momentum}: is of optim=sgd; {config.optim.name} has "
            "averages of its own, so leave it out"
        )
    if config.teacher.model != Source() and config.teacher.model.target is None:
        raise UserError(
            "teacher.model.target: missing; teacher.model describes a teacher of other code, which "
            "is named by teacher.model.target=my_package.my_module.MyNetwork"
        )
    for key, source, choice in (("file", "npz", "npz"), ("size", "images", "folder")):
        if getattr(data, key) is not None and data.source != source:
            raise UserError(
                f"data.{key}={shown(getattr(data, key))}: goes with data={choice}; leave it out"
            )
    if config.data.files is not None and config.data.source != "verified":
        raise UserError(
            f"data.files={config.data.files}: works only with data.source=verified; here "
            f"data.source={config.data.source} reads data.dir={config.data.dir}, so leave it out"
        )
    if config.data.unlabelled and config.data.train_size is None:
        raise UserError(
            "data.unlabelled=true: needs data.train_size=NUMBER, which says how many training "
            "images keep their label"
        )
    if config.data.augment.extra and not config.data.augment.active:
        raise UserError(
            f"data.augment.extra={config.data.augment.extra}: would repeat the images; say how "
            "views differ by data.augment.shift, rotate or mixup"
        )
    if config.stage == "distill" and config.teacher.alters:
        _check_lessons(config)


def _check_lessons(config: Config) -> None:
    """Refuse to alter a teacher's logits where none are taught, or not those of known images."""
    teacher, data = config.teacher, config.data
    controls = teacher.control != "none"
    said = f"teacher.control={teacher.control}" if controls else f"teacher.clip={teacher.clip:g}"
    if not config.kd.uses_logits:
        raise UserError(
            f"{said}: alters the teacher's logits, which kd.method={config.kd.method} does not "
            "compare; leave it out"
        )
    if data.augment.active:
        raise UserError(
            f"{said}: alters what the teacher makes of the images, and data.augment has it see "
            "views instead; leave one of them out"
        )
    if controls and data.unlabelled:
        raise UserError(
            f"{said}: needs the label of every image, which data.unlabelled=true withholds; leave "
            "one of them out"
        )


def unknown_key(key: str, known: list[str]) -> str:
    """Say that a key is none of the ``known`` ones, and which was probably meant."""
    group = key.split(".")[0]
    if key in known:
        return f"{key}: no such key of the chosen {group}{_owners(key)}"
    last = key.rpartition(".")[2].lower()
    last = SYNONYMS.get(last, last)
    close = [name for name in known if name.rpartition(".")[2].lower() == last]
    # One of the group that was named first; else the learning rate is optim.lr, not model.lr.
    close.sort(key=lambda k: (not k.startswith(f"{group}."), k.startswith("model."), k.count(".")))
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return f"{key}: no such key; did you mean {close[0]}?"
    near = [name for name in sorted(known) if name.startswith(f"{group}.")]
    listed = f"known here: {', '.join(near or sorted(known))}"
    return f"{key}: no such key; {listed if near or len(known) < 20 else '--help lists all'}"


def _owners(key: str) -> str:
    """Name the choices of a group that have a key, for the end of a sentence."""
    group, _, name = key.partition(".")
    choices: dict[str, dict[str, Any]] = {"kd": {**METHODS}, "model": {**MODELS}}
    owners = [
        f"{group}={choice}"
        for choice, settings in choices.get(group, {}).items()
        if name in {spec.name for spec in dataclasses.fields(settings)}
    ]
    return f"; it goes with {' or '.join(owners)}" if owners else ""
