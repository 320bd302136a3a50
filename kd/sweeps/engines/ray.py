"""Ray: remote tasks on a running cluster, or on a local one that ends with the command."""

import contextlib
import os
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kd.errors import UserError, reason
from kd.sweeps.engines.settings import Engine, Spread

AHEAD = 4  # tasks sent for each that there is room for: nodes may be added
SECONDS = 5.0  # to answer at an address; Ray itself would knock for many minutes


@contextlib.contextmanager
def opened(spread: Spread, study: Path) -> Generator[Engine]:
    """See ``settings.py``.

    Raises:
        UserError: Ray is not installed, no cluster is at the address, or no node of it has what a
            task asks for.
    """
    if find_spec("ray") is None:
        raise spread.missing("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # no GPU asked, none seen
    import ray

    begun_by_others = ray.is_initialized()  # in a notebook
    if not begun_by_others:
        _connect(spread.ray.address)
    try:
        room = _room(spread, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        yield Engine(partial(_run, spread=spread, most=spread.at_once or AHEAD * room), _send)
    finally:
        if not begun_by_others:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    host, found, port = (address or "").rpartition(":")
    quiet: Any = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        quiet["include_dashboard"] = False
    try:
        if found:
            place = host.rpartition("/")[2], int(port)
            socket.create_connection(place, timeout=SECONDS).close()
        ray.init(address=address or "local", **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"hydra.launcher.ray.address={address or 'null'}: no cluster to be had "
            f"({reason(error)}); ray start --head starts one, null a local one"
        ) from error


def _asked(spread: Spread) -> dict[str, float]:
    """What a task takes of a node."""
    memory = int((spread.memory_gb or 0) * 2**30)
    asked = {"CPU": spread.threads, "GPU": spread.gpus, "memory": memory}
    return {name: amount for name, amount in asked.items() if amount}


def _room(spread: Spread, nodes: Sequence[dict[str, float]]) -> int:
    """How many tasks the cluster has room for.

    Raises:
        UserError: none; Ray would wait for a node that is large enough.
    """
    spread.refuse_more_than(max(node.get("CPU", 0) for node in nodes), "the cluster's largest node")
    asked = _asked(spread)
    room = sum(min(int(node.get(k, 0) / amount) for k, amount in asked.items()) for node in nodes)
    if not room:
        listed = ", ".join(f"{name} {amount:g}" for name, amount in asked.items())
        raise UserError(f"hydra.launcher: no node of the cluster has room for a task ({listed})")
    return room


def _run(
    calls: Sequence[Callable[[], Any]], spread: Spread, most: int
) -> Iterator[tuple[int, Any]]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    asked = _asked(spread)
    options: Any = {"num_cpus": asked.pop("CPU"), "num_gpus": asked.pop("GPU", 0), **asked}
    remote: Any = ray.remote(max_retries=spread.retries, **options)(_made)
    waiting = iter(enumerate(calls))
    sent: dict[Any, int] = {}
    while True:
        while len(sent) < most and (following := next(waiting, None)):
            number, call = following
            sent[remote.remote(call)] = number
        if not sent:
            return
        (ended,), _ = ray.wait([*sent], num_returns=1)
        number = sent.pop(ended)
        try:
            yield number, ray.get(ended)
        except RayTaskError as error:
            raise UserError(f"a task failed: {reason(error.cause or error)}") from error
        except RayError as error:
            yield number, spread.lost(reason(error).partition(".")[0])


def _made(call: Callable[[], Any]) -> Any:
    return call()


def _send(name: str, content: Any) -> Callable[[], Any]:
    """Put something into the object store, from which a task's node gets it."""
    import ray

    return partial(ray.get, ray.put(content))
