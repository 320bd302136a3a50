"""Joblib: processes of this machine."""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kd.errors import UserError
from kd.memory import available_bytes
from kd.sweeps.engines.settings import Engine, Spread

LOOK = 1.0  # seconds between two looks at whether the command is still there


@contextlib.contextmanager
def opened(spread: Spread, study: Path) -> Generator[Engine]:
    """See ``settings.py``.

    Raises:
        UserError: Joblib is not installed, or the machine has no room for a task.
    """
    if find_spec("joblib") is None:
        raise spread.missing("joblib")
    import joblib

    cores = joblib.cpu_count()
    spread.refuse_more_than(cores, "this machine")
    if spread.gpus:
        raise UserError(
            f"hydra.launcher.gpus={spread.gpus:g}: Joblib gives tasks no GPU of their own; use "
            "hydra.launcher.backend=ray, or local"
        )
    room = cores // spread.threads
    if spread.memory_gb and (free := available_bytes()):
        room = min(room, int(free / 2**30 / spread.memory_gb))
        if not room:
            asked = f"hydra.launcher.memory_gb={spread.memory_gb:g}"
            raise UserError(f"{asked}: {free / 2**30:.1f} GB are free on this machine")
    workers = min(room, spread.at_once or room)
    yield Engine(functools.partial(_run, spread=spread, workers=workers))


def _run(
    calls: Sequence[Callable[[], Any]], spread: Spread, workers: int
) -> Iterator[tuple[int, Any]]:
    # The processes of joblib.Parallel, which makes calls in this one where it is told to have one.
    from joblib.externals.loky import ProcessPoolExecutor, as_completed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left = dict(enumerate(calls))
    for retries_left in range(spread.retries, -1, -1):
        executor: Any = ProcessPoolExecutor(min(workers, len(left)))
        sent = {executor.submit(_made, call, os.getpid()): number for number, call in left.items()}
        try:
            for ended in as_completed(sent):
                result = ended.result()
                del left[sent[ended]]
                yield sent[ended], result
            return
        except TerminatedWorkerError as error:  # loky has ended the other workers too
            if not retries_left:
                said = str(error).partition(".")[0]
                yield from ((number, spread.lost(said)) for number in left)
        finally:
            executor.shutdown(kill_workers=True)


def _made(call: Callable[[], Any], command: int) -> Any:
    """Make a call, in a process that ends with the command and leaves the terminal to it."""
    _watch(command)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        return call()


@functools.cache  # once per worker, which makes many calls
def _watch(command: int) -> None:
    """Have this process end when the command that started it is gone: loky's would train on."""
    threading.Thread(target=_end_with, args=(command,), daemon=True).start()


def _end_with(command: int) -> None:
    while os.getppid() == command:
        time.sleep(LOOK)
    os._exit(1)
