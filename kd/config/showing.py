"""``print_config=true``: all settings of a run as a tree, in the terminal."""

import dataclasses
from typing import Any, cast

from kd._startup import lazy
from kd.config.schema import Config
from kd.errors import as_typed

# Imported when they are used: --help need not wait for them.
console, text, tree = lazy("rich.console"), lazy("rich.text"), lazy("rich.tree")


def print_config(config: Config) -> None:
    """Print the settings, if the configuration asks for that."""
    if config.print_config:
        settings = dataclasses.asdict(config)
        out = console.Console(highlight=False, soft_wrap=True)
        out.print(tree_of("settings", settings))


def tree_of(name: str, settings: dict[str, Any]) -> Any:
    """A group of settings, and the groups within."""
    found = tree.Tree(name)
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            found.add(tree_of(key, cast("dict[str, Any]", value)))
        else:
            found.add(text.Text(f"{key}: {as_typed(cast('Any', value))}"))
    return found
