"""What a configuration names by ``_target_``, made of its arguments: loggers and the like.

The configuration is that of ``conf/`` and of the command line. Of a run's saved one nothing is ever
made.
"""

import re
from pathlib import Path
from typing import Any, TypeVar

from hydra.utils import instantiate

from kd.config.schema import Config
from kd.errors import UserError, chain, shown
from kd.training.unfinished import below_study

Made = TypeVar("Made")

EXTRAS = ("mlflow", "wandb")  # of pyproject.toml, named like the choices that need them


def make_all(group: str, kind: type[Made], config: Config, directory: Path) -> dict[str, Made]:
    """What a group of the configuration names, each by its name in the group.

    Args:
        group: ``logger``, say; its nodes have a ``_target_`` each.
        kind: that all must be of.
        config: of the run.
        directory: of the run.

    Raises:
        UserError: something cannot be made, or is of another kind.
    """
    places = {
        "folder": str(directory),
        "run": below_study(directory),
        "study": config.study,
        "study_folder": str(directory.parents[1]),
        "output_dir": str(directory.parents[2]),
        "tags": ",".join(config.tags),
    }
    found: dict[str, Made] = {}
    for name, node in getattr(config, group).items():
        try:
            made = instantiate(fill(node, places), _convert_="all")
        except Exception as error:  # whatever is raised by what is named
            raise UserError(f"{group}={name}: {why_not(name, error)}") from error
        if not isinstance(made, kind):
            target = shown(node["_target_"])
            raise UserError(f"{group}={name}: {target} is no {kind.__name__} of Lightning's")
        found[name] = made
    return found


def fill(value: Any, places: dict[str, str]) -> Any:
    """The value with ``{folder}`` and the like in its texts replaced.

    >>> fill({"to": ["{run}/{x}", 1]}, {"run": "student/seed=0"})
    {'to': ['student/seed=0/{x}', 1]}
    """
    if isinstance(value, dict):
        return {key: fill(below, places) for key, below in value.items()}
    if isinstance(value, list):
        return [fill(below, places) for below in value]
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: places.get(found[1], found[0]), value)
    return value


def why_not(name: str, error: Exception) -> str:
    """Why something cannot be made, in half a line."""
    links = list(chain(error))
    if name in EXTRAS and any(isinstance(link, ModuleNotFoundError) for link in links):
        return f"needs the package {name}; pip install 'kd[{name}]'"
    said = str(links[-1]) or type(links[-1]).__name__
    return f"cannot be made: {shown(' '.join(said.split()))}"
