"""Methods of the user's own: ``kd.method=my_package.my_method`` is a choice like ``kd=dkd``."""

import dataclasses
from collections.abc import Sequence

from hydra.core.config_store import ConfigStore

from kd.methods import find_method


def with_own_methods(words: Sequence[str]) -> list[str]:
    """The words of a command, with Hydra knowing the methods that they name by a module.

    Raises:
        UserError: such a module cannot be imported, or holds no method.
    """
    return [_as_choice(word) for word in words]


def _as_choice(word: str) -> str:
    key, _, value = word.partition("=")
    names = value.split(",")
    own = [name for name in names if "." in name]
    if key not in ("kd", "kd.method") or not own:
        return word
    for name in own:
        defaults = dataclasses.asdict(find_method(name)())
        ConfigStore.instance().store(group="kd", name=name, node=defaults)
    return f"kd={value}"
