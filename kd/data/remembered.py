"""Fingerprints of splits, kept in a study: its next commands need not read the images for them.

``<study>/.fingerprints.json`` has them by names that stand for all that decides them: the settings
and the sha256 of the files. A digest in the file stands for its content and for the code. Whatever
does not fit is computed anew.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Hashable, Mapping
from importlib.metadata import version
from pathlib import Path

from kd.config.schema import Data
from kd.data.sources import state, whole_files
from kd.files import code_hashes, file_hash, replacing

FILE = ".fingerprints.json"
MOST_BYTES = 2**24


def name_of(config: Data, key: tuple[Hashable, ...]) -> str | None:
    """Return the name of a fingerprint.

    Args:
        config: the settings of ``conf/data``.
        key: the state of the data set's files, and the settings that decide.

    Returns:
        None where the images do not depend on a few files alone, or these have changed since.
    """
    files, *settings = key
    hashes = _hashes(tuple(whole_files(config)), files)
    return _digest([hashes, settings]) if hashes and state(config) == files else None


@functools.lru_cache(maxsize=2)  # the jobs of a sweep share the images
def _hashes(paths: tuple[Path, ...], files: Hashable) -> list[str] | None:
    """Digest files in this state; None where one of them cannot be read."""
    if not all(path.is_file() for path in paths):
        return None
    try:
        return [*map(file_hash, paths)]
    except OSError:
        return None


def read(study: Path) -> dict[str, str]:
    """Return the fingerprints that a study has, by their names; of a damaged file none."""
    path = study / FILE
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["sha256"] == _digest([content["fingerprints"], code()]):
                return content["fingerprints"]
    return {}


def add(study: Path, found: Mapping[str, str]) -> None:
    """Add fingerprints to a study; where they cannot be written they are computed again."""
    before = read(study)
    if found.items() <= before.items():
        return
    told = before | dict(found)
    content = {"fingerprints": told, "sha256": _digest([told, code()])}
    with contextlib.suppress(OSError), replacing(study / FILE) as beside:
        beside.write_text(json.dumps(content) + "\n", encoding="utf-8")


@functools.cache
def code() -> list[str]:
    """What images and splits depend on besides the files and the settings."""
    return [*code_hashes(), version("numpy"), version("scikit-learn")]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
