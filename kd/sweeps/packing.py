"""Large sweeps: block by block, each trained like a small sweep, its runs packed in one folder."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from kd._startup import importing, lazy
from kd.config.showing import print_config
from kd.config.undo import keep
from kd.data import sources
from kd.data.pool import remember
from kd.errors import UserError
from kd.sweeps import launcher, packed_table, plan, spreading
from kd.sweeps.board import Board
from kd.sweeps.engines.settings import Lost, Spread
from kd.sweeps.job_configs import Job, plain_node
from kd.sweeps.pack_content import Content
from kd.sweeps.ranges import Block, Family
from kd.sweeps.table import rounded
from kd.training import packs, run_folder
from kd.training.complete import as_shown, find_complete
from kd.training.threads import using

if TYPE_CHECKING:
    from kd.training import unpack
else:
    unpack = lazy("kd.training.unpack")

log = logging.getLogger(__name__)

SHOWN = 10  # of the best runs, and of all, that TensorBoard shows


@dataclass
class Ended:
    """What became of a block."""

    runs: int
    failed: dict[str, str]  # by the run's name: why
    skipped: bool = False
    best: tuple[float, str] = (0.0, "")  # validation accuracy and name
    lost: str | None = None  # why nothing has become of it

    @property
    def missing(self) -> int:
        """How many of its runs are not complete."""
        return self.runs if self.lost else len(self.failed)


def launch(families: Sequence[Family], spread: Spread) -> None:
    """Run a large sweep, then say which settings did best.

    Args:
        families: of its jobs.
        spread: where blocks train.

    Raises:
        UserError: a teacher or an engine is not to be had, no room is left, or a run failed.
    """
    started, lead = time.perf_counter(), families[0].lead
    size = lead.config.store.pack
    blocks = [block for family in families for block in family.blocks(size)]
    console = Console(highlight=False, soft_wrap=True)
    print_config(lead.config)
    students = sum(map(len, blocks))
    where = f"{as_shown(lead.study)}/{packs.FOLDER}"
    console.print(f"{_counted(students, 'run')} in {_counted(len(blocks), 'pack')}: {where}")
    launcher.allow_many_files()
    studies = list(dict.fromkeys(block.study for block in blocks))
    for study in studies:
        plan.tidy(study)
    for family in families:  # before the first of them trains for hours
        (job,) = family.block(0, 1).jobs()
        if job.config.overwrite or not run_folder.is_complete(job.directory):
            launcher.refuse_untrainable([job], {job})
    keep()
    causes, missing = Counter[str](), 0
    try:
        for ended in _train_all(blocks, spread, console):
            causes.update([ended.lost] * ended.runs if ended.lost else ended.failed.values())
            missing += ended.missing
        for study in studies:
            _unpack_some(study, lead.config.store.weights)
    finally:
        for study in studies:
            if run_folder.has_runs(study):
                remember([f.lead.config.data for f in families if f.lead.study == study], study)
                run_folder.write_results(study)
    for study in studies:
        packed_table.show(study, console)
    elapsed = rounded(time.perf_counter() - started)
    console.print(f"{students - missing:,} of {students:,} runs complete, {elapsed}")
    for study in studies:
        shown = as_shown(study)
        tables = f"{shown}/{run_folder.LARGE}, {shown}/{run_folder.RESULTS}"
        console.print(f"results: {tables}  (to look at some: tensorboard --logdir {shown})")
    if missing:
        told = launcher.list_causes(causes)
        raise UserError(f"{missing:,} of {students:,} runs failed: {told}")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _unpack_some(study: Path, kept: str) -> None:
    """Make folders of the best runs and of a sample, for TensorBoard, as far as weights are kept.

    Args:
        study: its folder.
        kept: which weights are.
    """
    frame: Any = packs.frame_of(study, ["run", "val/acc"])
    if frame.empty or kept == "none":
        return
    best = frame.sort_values("val/acc", ascending=False, kind="stable")["run"].head(SHOWN)
    spread = np.linspace(0, len(frame) - 1, SHOWN).round().astype(int)
    for name in dict.fromkeys([*best, *frame["run"].iloc[spread]]):
        try:
            unpack.unpack(study / name)
        except packs.NotKept:
            continue
        except UserError as error:  # another process does, or the images are gone
            log.warning("%s is not unpacked: %s", name, error)


def _train_all(blocks: Sequence[Block], spread: Spread, console: Console) -> Iterator[Ended]:
    """Train the blocks where ``spread`` says; a line tells of each."""
    pace = _Pace(sum(map(len, blocks)), console)
    if spread.backend == "local":
        spread.refuse_more_than(os.cpu_count() or 1, "this machine")
        busy = []
        for block in blocks:
            try:
                yield pace.tell(block, _train_here(block, pace.board(), spread))
            except run_folder.Busy:  # another command has it: perhaps it is complete by the end
                busy.append(block)
        for block in busy:
            try:
                yield pace.tell(block, _train_here(block, pace.board(), spread))
            except run_folder.Busy as error:
                yield pace.tell(block, Ended(len(block), {}, lost=str(error)))
        return
    tasks = [BlockTask(block, spread.threads) for block in blocks]
    gpu = any(block.lead.config.trainer.accelerator == "gpu" for block in blocks)
    with spreading.engine_of(spread, blocks[0].study, gpu) as engine:
        spreading.send_images(engine, [block.lead.config.data for block in blocks], tasks)
        for number, ended in engine.run(tasks):
            block = blocks[number]
            if isinstance(ended, Lost):
                ended = Ended(len(block), {}, lost=str(ended))
            yield pace.tell(block, ended)


def _train_here(block: Block, board: Board, spread: Spread) -> Ended:
    with using(spread.threads) if spread.cores else contextlib.nullcontext():
        return train_block(block, board)


class _Pace:
    """How far a sweep is, and how long the rest will take.

    Args:
        students: of the sweep.
        console: to say it on.
    """

    def __init__(self, students: int, console: Console) -> None:
        self.students, self.console = students, console
        self.done = self.trained = 0
        self.best = (0.0, "")
        self.started = time.perf_counter()

    def board(self) -> Board:
        """What shows a block's training."""
        before = f"{self.done:,} of {self.students:,} runs{self._left()}; here "
        return Board((), self.console, before)

    def tell(self, block: Block, ended: Ended) -> Ended:
        """Take note of a block, and say how the sweep stands."""
        self.done += len(block)
        if not ended.skipped:
            self.trained += len(block)
        self.best = max(self.best, ended.best)
        best = f"; best on validation {self.best[0]:.4f}: {self.best[1]}" if self.best[1] else ""
        what = "complete already" if ended.skipped else ended.lost or "done"
        failed = f", {len(ended.failed)} failed" if ended.failed else ""
        self.console.print(
            f"[{self.done:,}/{self.students:,}] pack {block.name[:8]} {what}{failed}"
            f"{self._left()}{best}",
            markup=False,
        )
        return ended

    def _left(self) -> str:
        left = self.students - self.done
        if not (self.trained and left):
            return ""
        return f", {rounded((time.perf_counter() - self.started) / self.trained * left)} left"


@dataclass
class BlockTask:
    """What an engine calls: trains a block's runs and packs them."""

    block: Block
    threads: int
    sent: dict[sources.Place, sources.Sent] = field(default_factory=dict)  # the images
    packed: Any = None  # as it was sent here

    def __reduce__(self) -> Any:
        """Pack the task when it is sent; see :func:`kd.sweeps.spreading.parcel`."""
        if self.packed:
            return self.packed
        lead = replace(self.block.lead, hydra=plain_node(self.block.lead))
        block = replace(self.block, lead=lead)
        return spreading.parcel(self, block, self.threads)

    def __call__(self) -> Ended:
        """Train what is not complete, or go on where an earlier attempt was ended."""
        with spreading.at_work(self):
            try:
                return train_block(self.block, Board((), Console(quiet=True), ""))
            except UserError as error:  # the other blocks go on
                return Ended(len(self.block), {}, lost=str(error))


def train_block(block: Block, board: Board) -> Ended:
    """Train a block's runs and pack them, or adopt what is complete.

    Args:
        block: of the sweep.
        board: shows it.

    Raises:
        UserError: another process trains it, a teacher is missing, a complete run has other
            settings, or no room is left.
    """
    if not block.lead.config.overwrite and (ended := _adopted(block)):
        return ended
    with importing():
        importlib.import_module("kd.sweeps.group")
    busy = f"{block.folder}: another process is training it; wait for it to end, or give study=NEW"
    lock = run_folder.take(block.study, f"{packs.FOLDER}/{block.name}", busy)
    try:
        return _train_locked(block, block.jobs(), board)
    finally:
        lock.release()


def _adopted(block: Block) -> Ended | None:
    """What a block has come to if its pack is whole; None if some of it is to be trained.

    Raises:
        UserError: see :func:`kd.training.complete.find_complete`.
    """
    pack = next((p for p in packs.packs_of(block.study) if p.folder == block.folder), None)
    if pack is None or pack.dropped:
        return None
    failed = pack.note["failed"]
    if len(pack.names) + len(failed) < len(block):
        return None
    for job in block.jobs(1):  # of other images or another teacher, all its runs are others
        if job.name in pack.names:
            find_complete(job.config, job.directory, pack)
    return Ended(len(block), failed, True, _best(pack))


def _best(pack: packs.Pack) -> tuple[float, str]:
    """The best validation accuracy of a pack's runs, and whose it is."""
    if not pack.names:
        return 0.0, ""
    found = pack.table(["run", "val/acc"]).to_pydict()
    return max(zip(found["val/acc"], found["run"], strict=True))


def _forget(block: Block, jobs: Sequence[Job]) -> None:
    """Have the runs of a block count no more: they are trained again, by whatever command.

    Raises:
        UserError: another process trains one of them.
    """
    packs.drop(block.study, [job.name for job in jobs])
    for job in jobs:
        if job.directory.exists():
            with run_folder.hold(job.directory):
                shutil.rmtree(job.directory)


def _train_locked(block: Block, jobs: Sequence[Job], board: Board) -> Ended:
    """Train the runs of a block whose lock is held."""
    if block.lead.config.overwrite:
        _forget(block, jobs)
    earlier = packs.why_failed(block.study)
    for job in jobs:
        if job.name in earlier:
            job.failure = UserError(earlier[job.name])
    missing = {j for j in jobs if not (j.failure or run_folder.is_complete(j.directory))}
    for job in jobs:
        if job not in missing and not job.failure:
            find_complete(job.config, job.directory)
    if not missing:
        failed = {job.name: job.error or "" for job in jobs if job.error}
        return Ended(len(jobs), failed, skipped=True)
    content = Content(block)
    with _silence():
        groups = launcher.form_groups(jobs, missing, Console(quiet=True))
        begun = [group.planned for group in groups]
        board.follow([job for job in jobs if job in missing])
        with board:
            for group in groups:
                parts = launcher.train_together(group, (), board)
                begun += [part.planned for part in parts]
                for job in group.members:
                    content.add(job)
        places = {job.name: place for place, job in enumerate(jobs)}
        content.results.sort(key=lambda result: places[result.name])
    for job in missing:
        if job.apart and not job.failure:  # it has a folder of its own, as in any sweep
            job.packed, job.config = False, replace(job.config, logger=block.lead.config.logger)
            launcher.finish_job(job)
    if waiting := [job for job in jobs if job.waits]:
        raise UserError(waiting[0].error) from waiting[0].failure
    failed = {job.name: job.error or "" for job in jobs if job.error}
    content.write()
    plan.replace(block.study, begun, [])
    return Ended(len(jobs), failed, best=content.best)


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """Say nothing of groups: a large sweep has thousands."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
