"""Where a run lies: its folder is named by its settings."""

import contextlib
import hashlib
import re
from collections.abc import Generator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kd.config.schema import BESIDE, NOT_RELEVANT, OF_STUDIES, TARGETS, Config, flatten
from kd.config.validation import check_values, validate
from kd.errors import UserError, as_typed
from kd.files import MINI, data_dir


def run_name(config: Config, overrides: list[str]) -> str:
    """Return the run's folder below its study: stage and parameters, then what else was overridden.

    Args:
        config: the run's configuration.
        overrides: the command line's ``key=value`` words, as Hydra records them for the job.

    Returns:
        such as ``distill/T=2.0,alpha=0.5,seed=0,optim.lr=0.001``; safe as a path.
    """
    if config.stage in OF_STUDIES:
        return "."
    flat = flatten(config)
    named: dict[str, Any] = {"seed": config.seed}
    if config.stage == "distill":
        named = {"T": config.kd.T, "alpha": config.kd.alpha, **named}
    told = {"stage", "seed", "kd.T", "kd.alpha", "experiment", "debug"} | NOT_RELEVANT | BESIDE
    unused = BESIDE if config.stage == "distill" else BESIDE | {"kd", "teacher"}
    extra: dict[str, Any] = {}
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        if key not in told and key.split(".")[0] not in unused:
            extra[key] = value if key in TARGETS else as_typed(flat.get(key, value))
    # A method may bring views along: they are named like those that one asks for.
    own = ("data.augment.", "data.views")
    views = {k: v for k, v in flat.items() if k.startswith(own) and v and v != "none"}
    # A run of a few batches, as debug=fast makes, never lies where the whole one would.
    views |= {key: flat[key] for key in ("trainer.limit_batches",) if flat[key] is not None}
    words = [f"{k}={v}" for k, v in [*named.items(), *sorted((views | extra).items())]]
    return f"{config.stage}/{shorten(','.join(map(shorten, words)), most=240)}"


def shorten(name: str, most: int = 80) -> str:
    """Replace what a path cannot hold; a name that is too long for one ends in a hash."""
    safe = re.sub(r"[^\w.,=+-]", "_", name)
    if len(safe) <= most:
        return safe
    return f"{safe[: most - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


_naming: list[str] = []  # the resolvers at work


@contextlib.contextmanager
def _naming_by(resolver: str) -> Generator[None]:
    """Refuse a setting that stands for a name which is made of the settings."""
    if _naming:
        raise UserError(f"${{{resolver}:}} is made of the settings and cannot be one of them")
    _naming.append(resolver)
    try:
        yield
    finally:
        _naming.clear()


def _run_subdir(*, _root_: DictConfig) -> str:
    """Name a job's folder for Hydra; a wrong setting ends here and leaves no trace."""
    with _naming_by("run_subdir"):
        return run_name(validate(_root_), list(_root_.hydra.overrides.task))


def _study_dir(*, _root_: DictConfig) -> str:
    """Name a sweep's folder for Hydra, checked before a sweep writes there."""
    with _naming_by("study_dir"):
        given = {name: _root_.get(name) for name in ("output_dir", "study")}
    check_values(Config(), given, only=given)
    return f"{given['output_dir']}/{given['study']}"


def _of_stage(teacher: Any, student: Any, *, _root_: DictConfig) -> Any:
    """Choose between a setting of teachers and one of students, in an experiment for all stages."""
    return teacher if _root_.stage == "teacher" else student


OmegaConf.register_new_resolver("of_stage", _of_stage, replace=True)
OmegaConf.register_new_resolver("study_dir", _study_dir, replace=True)
OmegaConf.register_new_resolver("run_subdir", _run_subdir, replace=True)
OmegaConf.register_new_resolver("data_dir", lambda: str(data_dir()), replace=True)
OmegaConf.register_new_resolver("mini_dir", lambda: str(MINI), replace=True)
