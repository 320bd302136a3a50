"""From what Hydra composed to the typed configuration, every value checked."""

import dataclasses
import difflib
from collections.abc import Collection, Iterator
from dataclasses import Field
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kd.config.schema import Config
from kd.errors import UserError, shown
from kd.methods import find_method
from kd.models import find_model


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
    method = find_method(_choice(tree, "kd", "method"))
    network = find_model(_choice(tree, "model", "name"))
    config = check_values(Config(kd=method(), model=network()), tree)
    _check_together(config)
    return config


def check_values(schema: Config, tree: dict[str, Any], only: Collection[str] = ()) -> Config:
    """The schema filled with the values of ``tree``: types are OmegaConf's matter, bounds ours.

    Args:
        schema: has the networks' and the method's own settings.
        tree: values by key, groups within.
        only: the settings to take from it; all by default.

    Raises:
        UserError: a key is unknown or missing, or a value is of the wrong type or out of bounds.
    """
    specs = dict(_specs(schema))
    _refuse_unknown(tree, list(specs))
    typed = OmegaConf.structured(schema)
    for key in only or specs:
        spec, kind = specs[key]
        value = _value_of(tree, key)
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        allowed = spec.metadata.get("allowed", words.get(kind, "a text"))
        try:
            OmegaConf.update(typed, key, value)
            found = OmegaConf.select(typed, key)
            found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
            good = spec.metadata.get("check", lambda _: True)(found)
        except (OmegaConfBaseException, TypeError, OverflowError):
            good = False
        if not good or (isinstance(value, bool) != (kind is bool)):
            raise UserError(f"{key}={shown(value)}: must be {allowed}")
    return OmegaConf.to_object(typed)


def _specs(schema: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Field[Any], Any]]]:
    """Every setting by its name on the command line: its field, and the type of its values."""
    kinds = get_type_hints(type(schema))
    for spec in dataclasses.fields(schema):
        value = getattr(schema, spec.name)
        if dataclasses.is_dataclass(value):
            yield from _specs(value, f"{prefix}{spec.name}.")
        else:
            yield prefix + spec.name, (spec, kinds[spec.name])


def _refuse_unknown(tree: dict[str, Any], known: list[str], prefix: str = "") -> None:
    for name, value in tree.items():
        key = prefix + name
        if key in known:
            continue
        below = [other for other in known if other.startswith(f"{key}.")]
        if not below:
            siblings = {other.removeprefix(prefix).split(".")[0] for other in known}
            raise UserError(unknown_key(key, [prefix + sibling for sibling in siblings]))
        if not isinstance(value, dict):
            raise UserError(f"{key}={shown(value)}: is a group of keys, not a value")
        _refuse_unknown(value, below, f"{key}.")


def _value_of(tree: dict[str, Any], key: str) -> Any:
    value: Any = tree
    for name in key.split("."):
        if name not in value:
            raise UserError(f"{key}: missing; give it as {key}=VALUE")
        value = value[name]
    return value


def _choice(tree: dict[str, Any], group: str, key: str) -> Any:
    node = tree.get(group)
    return node.get(key) if isinstance(node, dict) else node


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


def unknown_key(key: str, known: list[str]) -> str:
    """What to say of a key that is none of the ``known`` ones."""
    if key in known:
        return f"{key}: no such key of the chosen {key.split('.')[0]}"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"
    return f"{key}: no such key; {hint}"
