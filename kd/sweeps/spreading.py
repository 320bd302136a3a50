"""Sweeps whose groups train elsewhere: each is a task of an engine.

A task is a group, or a job that trains alone, with all that its training needs but the teacher,
which it reads where the command would, and the images, which all tasks of a machine share. It
writes its runs' folders as the command would and sends back what the command says of them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import pickle
import sys
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from kd._startup import importing, lazy
from kd.config.schema import Data
from kd.config.undo import keep
from kd.data import pool, sources
from kd.data.mapped import among_tasks
from kd.errors import UserError
from kd.sweeps import launcher
from kd.sweeps.board import Board
from kd.sweeps.engines.settings import Engine, Lost, Spread
from kd.sweeps.job_configs import Job, plain_node
from kd.sweeps.plan import Planned
from kd.training import run_folder

if TYPE_CHECKING:
    from kd.sweeps import grouping
else:
    grouping = lazy("kd.sweeps.grouping")


class Told(NamedTuple):
    """What became of a job."""

    outcome: Any
    error: str | None
    apart: str
    waits: bool


class Done(NamedTuple):
    """What became of a task."""

    jobs: list[Told]
    parts: list[Planned]  # the groups that it was cut into
    said: list[str]  # lines for the console


@dataclass
class Task:
    """What an engine calls: trains jobs that are a group, or one by itself."""

    jobs: list[Job]
    group: grouping.Group | None
    threads: int
    sent: dict[sources.Place, sources.Sent] = field(default_factory=dict)  # the images
    packed: Any = None  # as it was sent here

    def __reduce__(self) -> Any:
        """Pack the task when it is sent, for a process that may not know where to find code."""
        if self.packed:  # Slurm takes it back, to begin it again
            return self.packed
        lean = {job: replace(job, hydra=plain_node(job)) for job in self.jobs}
        group = self.group
        if group:
            lead = lean.get(group.lead) or replace(group.lead, hydra=plain_node(group.lead))
            group = group._replace(lead=lead, members=[lean[job] for job in group.members])
        return parcel(self, [*lean.values()], group, self.threads)

    def __call__(self) -> Done:
        """Train what is not complete, or go on where an earlier attempt was ended."""
        with importing():
            importlib.import_module("kd.sweeps.group")
        text = io.StringIO()
        board = Board(self.jobs, Console(file=text, soft_wrap=True))
        parts: list[grouping.Group] = []
        with _warnings() as warned, at_work(self):
            try:
                if self.group:
                    parts = launcher.train_together(self.group, (), board)
                for job in self.jobs:
                    launcher.finish_job(job)
            except Exception as error:  # no room is left to write
                for job in self.jobs:
                    if not job.outcome:
                        job.put_off(error)
            finally:
                for job in self.jobs:
                    job.unlock()
        told = [Told(job.outcome, job.error, job.apart, job.waits) for job in self.jobs]
        return Done(
            told, [part.planned for part in parts], [*text.getvalue().splitlines(), *warned]
        )


def parcel(task: Any, *parts: Any) -> Any:
    """What ``__reduce__`` gives of a task that is sent to where code and files must be found.

    Args:
        task: with what is ``sent`` beside.
        parts: that it is made of again.
    """
    content = pickle.dumps((type(task), parts))
    # The engine itself packs what it has sent: Ray counts who may still fetch it.
    return _unpacked, (os.getcwd(), [*sys.path], content, task.sent)


def _unpacked(place: str, paths: Sequence[str], content: bytes, sent: Any) -> Any:
    """A task as it was sent, in a process that now finds files and code as the command does."""
    os.chdir(place)
    sys.path += [path for path in paths if path not in sys.path]
    kind, parts = pickle.loads(content)
    packed = _unpacked, (place, paths, content, sent)
    return kind(*parts, sent=sent, packed=packed)


@contextlib.contextmanager
def _warnings() -> Generator[list[str]]:
    """Collect what is warned of meanwhile."""
    handler, found = BufferingHandler(10_000), list[str]()
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)
        found += [record.getMessage() for record in handler.buffer]


def launch(jobs: Sequence[Job], spread: Spread) -> None:
    """Run all jobs as :func:`kd.sweeps.launcher.launch` does, their groups where ``spread`` says.

    Raises:
        UserError: the engine is not to be had, none of the jobs can be trained, or one failed.
    """
    missing = [j for j in jobs if j.config.overwrite or not run_folder.is_complete(j.directory)]
    if not missing or (spread.backend == "local" and spread.cores is None):
        launcher.launch(jobs)
    elif spread.backend == "local":
        spread.refuse_more_than(os.cpu_count() or 1, "this machine")
        launcher.launch(jobs, partial(train_here, threads=spread.threads))
    else:
        gpu = any(job.config.trainer.accelerator == "gpu" for job in missing)
        with engine_of(spread, missing[0].study, gpu) as engine:
            launcher.launch(jobs, partial(train_elsewhere, engine=engine, threads=spread.threads))


@contextlib.contextmanager
def engine_of(spread: Spread, study: Path, gpu: bool) -> Generator[Engine]:
    """The engine of a sweep.

    Args:
        spread: says which.
        study: the folder of the sweep's study.
        gpu: whether a task asks for one.

    Raises:
        UserError: it is not to be had, or gives tasks no GPU.
    """
    if gpu and not spread.gpus:
        raise UserError("trainer.accelerator=gpu: tasks have none; give hydra.launcher.gpus=1")
    module = importlib.import_module(f"kd.sweeps.engines.{spread.backend}")
    with _gpus_hidden(not spread.gpus), module.opened(spread, study) as engine:
        yield engine


@contextlib.contextmanager
def at_work(task: Any) -> Generator[None]:
    """Do a task's work: with its threads, and with what the tasks of its machine share."""
    from kd.training.threads import using

    launcher.allow_many_files()
    sources.received.update(task.sent)
    with using(task.threads), among_tasks():
        yield


@contextlib.contextmanager
def _gpus_hidden(hidden: bool) -> Generator[None]:
    """Hide this machine's GPUs from this process and those that it starts."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    if hidden:
        os.environ[name] = ""
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def send_images(engine: Engine, data: Iterable[Data], tasks: Iterable[Any]) -> None:
    """Send the images once to tasks that may run where their files are not."""
    if engine.send:
        sent = pool.send(data, engine.send)
        for task in tasks:
            task.sent = sent


def train_here(
    jobs: Sequence[Job], groups: Iterable[grouping.Group], board: Board, threads: int
) -> list[grouping.Group]:
    """Do what the launcher does by itself, with so many threads."""
    from kd.training.threads import using

    with using(threads):
        return launcher.train_and_finish(jobs, groups, board)


def train_elsewhere(
    jobs: Sequence[Job],
    groups: Iterable[grouping.Group],
    board: Board,
    engine: Engine,
    threads: int,
) -> list[grouping.Group]:
    """Have an engine train the jobs, and say what became of each as its task ends.

    Args:
        jobs: all of the sweep.
        groups: those that train together.
        board: of the sweep.
        engine: that trains them.
        threads: that each task trains with.

    Returns:
        the groups that others were cut into.
    """
    tasks = [Task(group.members, group, threads) for group in groups]
    tasks += [Task([job], None, threads) for job in jobs if job.apart and not job.failure]
    away = {job for task in tasks for job in task.jobs}
    send_images(engine, [job.config.data for job in away], tasks)
    settled, parts, said = 0, list["grouping.Group"](), set[str]()

    def settle(job: Job) -> None:
        nonlocal settled
        settled += 1
        seconds = [job.outcome.metrics["time/fit_s"]] if job.outcome else []
        told = launcher.outcome_of(job, seconds, 0)
        board.settle(job, settled, f"[{settled}/{len(jobs)}] {job.name}  {told}")

    for job in jobs:
        if job not in away:  # complete, or cannot be trained
            launcher.finish_job(job)
            settle(job)
    board.groups = len(tasks)
    keep()
    for number, result in engine.run(tasks):
        task = tasks[number]
        found = [] if isinstance(result, Lost) else result.parts
        if task.group:
            parts += [task.group._replace(planned=part) for part in found]
        board.group += 1
        for line in [] if isinstance(result, Lost) else result.said:
            if line not in said:  # tasks meet the same
                said.add(line)
                board.say(line)
        for at, job in enumerate(task.jobs):
            learn(job, result if isinstance(result, Lost) else result.jobs[at])
            settle(job)
        if len(tasks) > 1 and not board.drawn:
            board.say(f"{board.group} of {len(tasks)} groups done")
    return parts


def learn(job: Job, told: Told | Lost) -> None:
    """Note what became of a job elsewhere."""
    if isinstance(told, Lost):
        job.put_off(told)
        return
    job.outcome, job.apart, job.waits = told.outcome, told.apart, told.waits
    job.failure = UserError(told.error) if told.error else None
