"""Slurm, by Submitit: one job array per sweep, a task of it for each call or several."""

import contextlib
import functools
import io
import os
import pickle
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kd.errors import UserError
from kd.files import replacing
from kd.sweeps.engines.settings import Engine, Spread
from kd.training.run_folder import take

LOOK = 1.0  # seconds between two looks at what has ended
QUIET: Any = {"capture_output": True, "text": True}
TASKS = ".tasks"  # the folder in a study for what is sent to tasks, and their logs
SENT = ".sent"  # how the names of files end that are sent to all of them
ENDED = "Job not requeued because"  # Submitit's words for a task that has timed out too often
RULE = 22 * "-"  # its line around a traceback


class Requeued:
    """Calls that Slurm may end, for their time is up or another job weighs more, and requeue."""

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        self.calls = calls

    def __call__(self) -> list[Any]:
        """Make the calls."""
        return [call() for call in self.calls]

    def checkpoint(self) -> Any:
        """What Submitit requeues: the same calls, which go on where they were."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextlib.contextmanager
def opened(spread: Spread, study: Path) -> Generator[Engine]:
    """See ``settings.py``. What is sent to tasks, and their logs, lie in the study meanwhile.

    Raises:
        UserError: Submitit or Slurm is not there, or does not take what is asked.
    """
    if find_spec("submitit") is None:
        raise spread.missing("submitit")
    on_slurm = spread.slurm.executor == "slurm"
    if on_slurm and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(
            "hydra.launcher.backend=slurm: no Slurm on this machine (sbatch, srun); give the "
            "command on a node from which jobs are submitted"
        )
    if on_slurm and (asked := subprocess.run(["sacct", "--noheader"], **QUIET)).returncode:
        why = _last_line(asked.stderr)
        raise UserError(f"hydra.launcher.backend=slurm: a lost task would not be seen ({why})")
    if 0 < spread.gpus < 1:
        raise UserError(f"hydra.launcher.gpus={spread.gpus:g}: Slurm gives whole GPUs; give 0 or 1")
    if not on_slurm:
        spread.refuse_more_than(os.cpu_count() or 1, "this machine")
    folder = study / TASKS
    busy = f"{study}: another command has tasks of this study on Slurm; wait for it to end, or "
    with take(study, "slurm.lock", busy + "give study=NEW"):
        if on_slurm:
            _cancel_earlier(folder)
        try:
            run = functools.partial(_run, spread=spread, folder=folder)
            yield Engine(run, functools.partial(_send, folder))
        finally:
            for path in folder.glob(f"*{SENT}"):
                path.unlink()
        if not any(folder.glob("*.pkl")):  # those of a task that was lost too often stay
            shutil.rmtree(folder, ignore_errors=True)


def _unfinished(folder: Path) -> list[str]:
    """The ids of jobs that have begun, or wait, and were not seen to end."""
    return [path.name.partition("_submitted")[0] for path in folder.glob("*_submitted.pkl")]


def _cancel_earlier(folder: Path) -> None:
    """Have the tasks of a command that was killed end: others go on where they were."""
    if ids := _unfinished(folder):
        subprocess.run(["scancel", *ids], **QUIET)
        listing = ["squeue", "--noheader", f"--jobs={','.join(ids)}"]
        while subprocess.run(listing, **QUIET).stdout.strip():
            time.sleep(LOOK)
        shutil.rmtree(folder)


def _executor(spread: Spread, folder: Path) -> Any:
    """Submitit's executor, told what a task takes."""
    import submitit

    executor = submitit.AutoExecutor(
        folder, cluster=spread.slurm.executor, slurm_max_num_timeout=spread.retries
    )
    executor.update_parameters(
        name="kd",
        cpus_per_task=spread.threads,
        mem_gb=spread.memory_gb,
        gpus_per_node=int(spread.gpus) or None,
        timeout_min=spread.slurm.minutes,
        slurm_partition=spread.slurm.partition,
        slurm_account=spread.slurm.account,
        slurm_array_parallelism=spread.at_once,
        # Since Slurm 22.05 srun does not take over what sbatch was told.
        slurm_srun_args=[f"--cpus-per-task={spread.threads}"],
    )
    return executor


def _run(
    calls: Sequence[Callable[[], Any]], spread: Spread, folder: Path
) -> Iterator[tuple[int, Any]]:
    from submitit.core.utils import FailedJobError

    executor, size = _executor(spread, folder), spread.slurm.groups
    parts = [range(len(calls))[at : at + size] for at in range(0, len(calls), size)]
    tasks = [Requeued([calls[number] for number in part]) for part in parts]
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            sent = [executor.submit(task) for task in tasks]
    except FailedJobError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"Slurm refuses the tasks: {_last_line(str(error))}") from error
    running, begun = dict(zip(sent, range(len(sent)), strict=True)), Counter(range(len(sent)))
    try:
        while running:
            for job in [job for job in running if job.done()]:
                task, error = running.pop(job), job.exception()
                if error is None:
                    results = job.result()
                    _forget(job)
                    yield from zip(parts[task], results, strict=True)
                elif isinstance(error, FailedJobError) and ENDED not in str(error):
                    raise UserError(f"a task failed: {_reason(error)} (logs: {folder})") from error
                elif begun[task] <= spread.retries and not isinstance(error, FailedJobError):
                    begun[task] += 1
                    job.cancel(check=False)  # Slurm may be about to begin it again
                    _forget(job)
                    running[executor.submit(tasks[task])] = task
                else:
                    lost = spread.lost(f"{_reason(error)} (logs: {folder})")
                    yield from ((number, lost) for number in parts[task])
            time.sleep(max(LOOK, len(running) / 100))
    finally:
        for job in running:
            job.cancel(check=False)


def _send(folder: Path, name: str, content: Any) -> Callable[[], Any]:
    """Put something into the study, where a task on any node finds it."""
    path = folder / f"{name}{SENT}"
    with replacing(path) as beside, beside.open("wb") as file:
        pickle.dump(content, file)
    return functools.partial(_fetch, path)


def _fetch(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def _forget(job: Any) -> None:
    """Remove a task's files."""
    paths = job.paths
    for path in (paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr):
        path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Of Submitit's pages on a task: its traceback's last line, or Slurm's word for its end."""
    found = re.search(r"\(state: (\w+)\)", str(error))
    return found[1] if found else _last_line(str(error).split(RULE)[1])


def _last_line(text: str) -> str:
    return (text.strip() or "no reason given").splitlines()[-1]
