"""The teachers of distilled runs: named, told apart, and looked for.

A path does not identify a teacher: another network may have been trained in its place since.
"""

from collections.abc import Iterable
from pathlib import Path

from kd.errors import UserError
from kd.report.evaluation import CHECKPOINT, Run, hash_if_readable
from kd.report.packed import PackedRun
from kd.training.run_folder import read_metrics, shortened, teacher_paths


def teacher_label(run: Run, others: Iterable[Run]) -> str:
    """Name a run's teachers by the words of their folders that tell them from others' teachers.

    Where these do not, it is by their paths; with hashes where a path alone is ambiguous.

    Args:
        run: a distilled run.
        others: those that it must be told from, and itself.
    """
    path = run.metrics["teacher/checkpoint"]
    runs = [*others]
    namesakes = [other.metrics for other in runs if other.metrics["teacher/checkpoint"] == path]
    retrained = len({metrics["teacher/sha256"] for metrics in namesakes}) > 1
    folders = {p: folder_of(p) for other in runs for p, _ in teacher_checkpoints(other)}
    words = {folder: folder.name.split(",") for folder in folders.values()}
    shared = set[str].intersection(*map(set, words.values()))
    # Of a name that has no word of its own, as of a teacher with nothing overridden, all are told.
    short = {f: ",".join([w for w in own if w not in shared] or own) for f, own in words.items()}
    clear = len({*short.values()}) == len(short)
    names = [str(short[folders[p]] if clear else folders[p]) for p, _ in teacher_checkpoints(run)]
    hashes = [f" ({sha[:8]})" if retrained else "" for _, sha in teacher_checkpoints(run)]
    return " + ".join(map("".join, zip(names, hashes, strict=True)))


def folder_of(checkpoint: Path) -> Path:
    """What a teacher is called by: its run's folder, or the file where that is none of ours."""
    return checkpoint.parent if checkpoint.name == CHECKPOINT else checkpoint


def teacher_checkpoints(run: Run) -> list[tuple[Path, str]]:
    """Path and sha256 of the checkpoints that taught a run: none, one, or those of an ensemble."""
    if (hashes := run.metrics["teacher/sha256"]) is None:
        return []
    return [*zip(map(Path, teacher_paths(run.metrics)), hashes.split(":"), strict=False)]


def all_teachers(runs: Iterable[Run]) -> list[tuple[Path, str]]:
    """The same of many runs, each once, in their order."""
    firsts: dict[tuple[str | None, str | None], Run] = {}
    for run in runs:
        told = run.metrics["teacher/checkpoint"], run.metrics["teacher/sha256"]
        firsts.setdefault(told, run)
    return list(dict.fromkeys(pair for run in firsts.values() for pair in teacher_checkpoints(run)))


def find_checkpoints(
    study: Path, teachers: Iterable[Run], distilled: Iterable[Run]
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Look for the teachers of distilled runs, at their recorded paths and in the study.

    Args:
        study: the study's folder, which may have been moved since.
        teachers: the study's own teachers.
        distilled: the runs whose teachers are looked for.

    Returns:
        by sha256: the checkpoints that are still unchanged; and for the others the paths that hold
        another network by now, or none.
    """
    recorded = all_teachers(distilled)
    moved = [study.joinpath(*path.parts[-3:]) for path, _ in recorded]
    places = [*moved, *(path for path, _ in recorded), *(run.checkpoint for run in teachers)]
    known = {hash_if_readable(place): place for place in places}  # of equal ones the last counts
    found = {sha256: known[sha256] for _, sha256 in recorded if sha256 in known}
    lost = dict.fromkeys(sha256 for _, sha256 in recorded if sha256 not in found)
    return found, {sha: [path for path, own in recorded if own == sha] for sha in lost}


def find_study_teacher(
    methods: list[list[Run]], found: dict[str, Path], runs: list[Run], refused: dict[str, str]
) -> Run | None:
    """Find the teacher of the largest method that still has one; of an ensemble, one of them."""
    split = methods[0][0].metrics["data/fingerprint"]
    known = {run.checkpoint: run for run in runs if not isinstance(run, PackedRun)}
    taught = dict.fromkeys(sha256 for part in methods for _, sha256 in all_teachers(part))
    for path in (found[sha256] for sha256 in taught if sha256 in found):
        teacher = known.get(path)
        try:
            # A checkpoint of no usable run here: of another study, or of a run that was left out.
            if not teacher and path.name == CHECKPOINT and (row := read_metrics(path.parent)):
                teacher = Run(path.parent, row)
                _ = teacher.predictions
        except UserError as error:
            refused[Run(path.parent, {}).name] = shortened(error, path.parent)
            continue
        if teacher and teacher.metrics["data/fingerprint"] == split:
            return teacher
    return None
