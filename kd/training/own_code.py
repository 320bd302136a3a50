"""The user's own code that a run depends on: its method, its networks."""

import inspect
from pathlib import Path
from typing import Any

from kd.config.schema import Config
from kd.errors import UserError
from kd.files import PACKAGE, file_hash
from kd.models._given import GIVEN
from kd.models.custom import Source, find_target

_imported: dict[Path, str] = {}  # sha256 of each file when this process first used it

Codes = dict[str, str | None]


def code_digests(config: Config) -> Codes:
    """Return the sha256 of the files of the user's own method and networks.

    What such a file imports is not seen, nor what is installed.

    Returns:
        by ``code/method``, ``code/model`` and ``code/teacher``: None where there is no such file.

    Raises:
        UserError: a network's code cannot be imported, or a file has changed since it was.
    """
    distills = config.stage == "distill"
    taught = config.teacher.model if distills else None
    return {
        "code/method": _digest(type(config.kd)) if distills else None,
        "code/model": _digest_of_network(config.model, "model.target"),
        "code/teacher": _digest_of_network(taught, "teacher.model.target"),
    }


def _digest_of_network(source: Any, key: str) -> str | None:
    """Digest the file of a network of other code; of one that was handed over there is none."""
    if not isinstance(source, Source) or not source.target or source.target.startswith(GIVEN):
        return None
    return _digest(find_target(source.target, key))


def _digest(code: Any) -> str | None:
    """Digest the file of a class or function, unless it is kd's or installed."""
    try:
        path = Path(inspect.getfile(inspect.unwrap(code)))
    except (TypeError, OSError):  # built in
        return None
    if PACKAGE in path.parents or "site-packages" in path.parts or not path.is_file():
        return None
    now = file_hash(path)
    if _imported.setdefault(path, now) != now:
        raise UserError(
            f"{path}: was edited after this process imported it, which still uses the old code; "
            "restart Python"
        )
    return now
