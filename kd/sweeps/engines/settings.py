"""How a sweep's groups are spread: the settings ``hydra.launcher.…``, and what an engine is.

An engine is a module with a context manager ``opened(spread, study)``. It makes sure that the
engine is there and can give what a task asks for, and yields an :class:`Engine`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from kd.config.validation import fill
from kd.errors import UserError
from kd.fields import choice, count, maybe_count, number, setting


class Engine(NamedTuple):
    """What an engine does."""

    # Calls functions elsewhere, and yields as they end the number of each and what it gave, or why
    # it gave nothing: its worker was lost more than ``retries`` times.
    run: Callable[[Sequence[Callable[[], Any]]], Iterator[tuple[int, Any]]]
    # Sends something, which has a name, once for all calls, and returns what fetches it in them.
    # None of an engine whose calls find what is on this machine.
    send: Callable[[str, Any], Callable[[], Any]] | None = None


class Lost(UserError):
    """A task's worker ended before the task did."""


def maybe_word(allowed: str) -> Any:
    """Make a field for null, its default, or a word without spaces."""
    return setting(
        None, f"null or {allowed}", lambda v: v is None or (v.isprintable() and len(v.split()) == 1)
    )


@dataclass
class Ray:
    """Where Ray is found."""

    address: str | None = maybe_word("the address of a running cluster, such as 10.0.0.1:6379")


@dataclass
class Slurm:
    """What Slurm is asked for."""

    partition: str | None = maybe_word("the name of a partition")
    account: str | None = maybe_word("the name of an account")
    groups: int = count(1)  # per task of the array, one after another
    minutes: int = count(60)  # that a task may take; what is left goes on in another then
    executor: str = choice("slurm", "local")  # Submitit's: local runs tasks on this machine


@dataclass
class Spread:
    """How the groups of a sweep are spread: ``hydra.launcher.…``."""

    backend: str = choice("local", "joblib", "ray", "slurm")
    # Of a group. As many threads as cores; null: one, with backend=local as many as torch takes.
    cores: int | None = maybe_count()
    memory_gb: float | None = setting(
        None, "null or a number above 0", lambda value: value is None or 0 < value < float("inf")
    )
    gpus: float = number(0.0, "a number from 0 to 1", lambda value: 0 <= value <= 1)
    retries: int = count(2, least=0, most=1000)  # how often a task is begun again
    at_once: int | None = maybe_count()  # groups; null: as many as there is room for
    ray: Ray = field(default_factory=Ray)
    slurm: Slurm = field(default_factory=Slurm)

    @property
    def threads(self) -> int:
        """How many cores and threads a task has."""
        return self.cores or 1

    def refuse_more_than(self, cores: float, where: str) -> None:
        """Make sure that a task fits.

        Raises:
            UserError: it asks for more cores than there are.
        """
        if self.threads > cores:
            raise UserError(f"hydra.launcher.cores={self.threads}: {where} has {cores:g}")

    def missing(self, package: str) -> UserError:
        """What to say where the engine's package is not installed."""
        name = self.backend
        return UserError(
            f"hydra.launcher.backend={name}: needs the package {package}; pip install 'kd[{name}]'"
        )

    def lost(self, reason: str) -> Lost:
        """What to say of a task whose worker was lost too often."""
        begun = self.retries + 1
        times = "once" if begun == 1 else f"{begun} times"
        return Lost(
            f"the worker was lost, {times} begun: {reason}; the same command goes on after the "
            f"last epoch (hydra.launcher.retries={self.retries})"
        )


def read_spread(tree: Mapping[str, Any]) -> Spread:
    """The settings among those of ``hydra.launcher``, checked.

    Raises:
        UserError: one is wrong.
    """
    names = {spec.name for spec in dataclasses.fields(Spread)}
    own = {
        name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for name, value in tree.items()
        if name in names
    }
    return fill(Spread(), own, "hydra.launcher.")
