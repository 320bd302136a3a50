"""Which networks taught a study's runs, by the hashes of their checkpoints, and where they are.

A path does not identify a teacher: another network may have been trained in its place since.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd.errors import UserError
from kd.files import file_hash
from kd.report.runs import CHECKPOINT, Run
from kd.training.run_folder import read_metrics, shortened, teacher_paths


def teacher_checkpoints(run: Run) -> list[tuple[Path, str]]:
    """Path and sha256 of the checkpoints that taught a run: none, one, or those of an ensemble."""
    hashes = run.metrics["teacher/sha256"]
    if hashes is None:
        return []
    pairs = zip(teacher_paths(run.metrics), hashes.split(":"), strict=False)
    return [(Path(path), sha256) for path, sha256 in pairs]


def hash_if_readable(path: Path) -> str | None:
    """Compute the sha256 of a file; return None if the file cannot be read."""
    try:
        return file_hash(path) if path.is_file() else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class TeacherCheckpoints:
    """The checkpoints that taught a study's distilled runs."""

    found: dict[str, Path]  # by sha256: the checkpoints that are still unchanged
    changed: dict[str, list[Path]]  # by sha256: paths that hold another network by now, or none

    def taught_unchanged(self, run: Run) -> bool:
        """Whether the run's teachers are all found; true for a run without a teacher."""
        return not any(sha256 in self.changed for _, sha256 in teacher_checkpoints(run))

    def is_replacement(self, teacher: Run) -> bool:
        """Whether a teacher lies at the path of one that has changed, and taught no run itself."""
        lost = {path.absolute() for paths in self.changed.values() for path in paths}
        path = teacher.checkpoint
        return path.absolute() in lost and path not in self.found.values()


def find_checkpoints(
    study: Path, teachers: Iterable[Run], distilled: Iterable[Run]
) -> TeacherCheckpoints:
    """Look for the teachers of distilled runs, at their recorded paths and in the study.

    Args:
        study: the study's folder, which may have been moved since.
        teachers: the study's own teachers.
        distilled: the runs whose teachers are looked for.
    """
    known = {hash_if_readable(run.checkpoint): run.checkpoint for run in teachers}
    found: dict[str, Path] = {}
    lost: dict[str, list[Path]] = {}
    recorded = dict.fromkeys(pair for run in distilled for pair in teacher_checkpoints(run))
    for path, sha256 in recorded:
        candidates = [path, study.joinpath(*path.parts[-3:])]
        match = known.get(sha256) or next(
            (one for one in candidates if hash_if_readable(one) == sha256), None
        )
        if match:
            found[sha256] = match
        else:
            lost.setdefault(sha256, []).append(path)
    return TeacherCheckpoints(found, {key: lost[key] for key in lost if key not in found})


def find_run(checkpoint: Path, runs: Iterable[Run]) -> Run | None:
    """Find the complete run that wrote a checkpoint, in the study or elsewhere.

    Raises:
        UserError: the run exists and cannot be used.
    """
    if checkpoint.name != CHECKPOINT:
        return None
    for run in runs:
        if run.folder == checkpoint.parent:
            return run
    metrics = read_metrics(checkpoint.parent)
    if metrics is None:
        return None
    run = Run(checkpoint.parent, metrics)
    _ = run.predictions
    return run


def find_study_teacher(
    methods: list[list[Run]],
    checkpoints: TeacherCheckpoints,
    runs: list[Run],
    refused: dict[str, str],
) -> Run | None:
    """Find the teacher of the largest method that still has one; of an ensemble, one of them."""
    split = methods[0][0].metrics["data/fingerprint"]
    recorded = [pair for part in methods for run in part for pair in teacher_checkpoints(run)]
    for sha256 in dict.fromkeys(sha256 for _, sha256 in recorded):
        if sha256 not in checkpoints.found:
            continue
        path = checkpoints.found[sha256]
        try:
            teacher = find_run(path, runs)
        except UserError as error:
            refused[Run(path.parent, {}).name] = shortened(error, path.parent)
            continue
        if teacher and teacher.metrics["data/fingerprint"] == split:
            return teacher
    return None


def partition_by_teacher(runs: Sequence[Run]) -> list[list[Run]]:
    """Partition runs by their teachers, unless every seed has a teacher of its own."""
    keys = ("seed", "teacher/checkpoint", "teacher/sha256")
    known = {tuple(run.metrics[key] for key in keys) for run in runs}
    if all(len(set(column)) == len(known) for column in zip(*known, strict=True)):
        return [list(runs)]
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(run.metrics["teacher/sha256"], []).append(run)
    return sorted(parts.values(), key=len, reverse=True)


def teacher_label(run: Run, others: Iterable[Run]) -> str:
    """Name a run's teachers by their paths, with hashes where a path alone is ambiguous."""
    path, sha256 = run.metrics["teacher/checkpoint"], run.metrics["teacher/sha256"]
    retrained = any(
        other.metrics["teacher/checkpoint"] == path and other.metrics["teacher/sha256"] != sha256
        for other in others
    )
    words = []
    for file, digest in teacher_checkpoints(run):
        folder = file.parent if file.name == CHECKPOINT else file
        words.append(f"{folder} ({digest[:8]})" if retrained else str(folder))
    return " + ".join(words)
