"""The user's own code that a run depends on: its method, its networks."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd.config.schema import Config
from kd.files import PACKAGE, file_hash
from kd.models._given import GIVEN
from kd.models.custom import Source, find_target


def code_digest(config: Config) -> str | None:
    """Return the sha256 of the files of the user's own method and networks, joined by colons.

    What such a file imports is not seen, nor what is installed.

    Returns:
        None where a run depends on no such file.

    Raises:
        UserError: a network's code cannot be imported.
    """
    found = dict.fromkeys(path for code in _own(config) if (path := _file(code)) is not None)
    return ":".join(map(file_hash, found)) or None


def _own(config: Config) -> Iterator[Any]:
    """Yield the method and what makes the networks; of networks handed over nothing."""
    sources: list[tuple[Any, str]] = [(config.model, "model.target")]
    if config.stage == "distill":
        yield type(config.kd)
        sources.append((config.teacher.model, "teacher.model.target"))
    for source, key in sources:
        if isinstance(source, Source) and source.target and not source.target.startswith(GIVEN):
            yield find_target(source.target, key)


def _file(code: Any) -> Path | None:
    """Return the file of a class or function, unless it is kd's or installed."""
    try:
        path = Path(inspect.getfile(inspect.unwrap(code)))
    except (TypeError, OSError):  # built in
        return None
    installed = PACKAGE in path.parents or "site-packages" in path.parts
    return None if installed or not path.is_file() else path
