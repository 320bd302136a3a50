"""Which networks taught a study's runs, by the hashes of their checkpoints, and where they are.

A path says little: the network that lies there may have been trained anew since.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd.files import file_hash
from kd.training.results import Run
from kd.training.run_folder import read_metrics, teacher_paths

CHECKPOINT = "model.ckpt"


def taught_by(run: Run) -> list[tuple[Path, str]]:
    """Path and sha256 of the checkpoints that taught a run: none, one, or those of an ensemble."""
    hashes = run.metrics["teacher/sha256"]
    if hashes is None:
        return []
    pairs = zip(teacher_paths(run.metrics), hashes.split(":"), strict=False)
    return [(Path(path), sha) for path, sha in pairs]


def hash_of(path: Path) -> str | None:
    """sha256 of a file; None where there is none to be read."""
    try:
        return file_hash(path) if path.is_file() else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Teachers:
    """The teachers of a study's distilled runs."""

    there: dict[str, Path]  # by sha256, the checkpoints that are still what they were
    changed: dict[str, list[Path]]  # by sha256, where another network is by now, or none

    def unchanged(self, run: Run) -> bool:
        """Whether what taught the run is still there; so it is of a run without a teacher."""
        return not any(sha in self.changed for _, sha in taught_by(run))

    def replaced(self, teacher: Run) -> bool:
        """Whether a teacher lies where another one taught from, and taught nobody itself."""
        path = teacher.folder / CHECKPOINT
        left = {place.absolute() for paths in self.changed.values() for place in paths}
        return path.absolute() in left and path not in self.there.values()


def find_teachers(study: Path, own: Iterable[Run], distilled: Iterable[Run]) -> Teachers:
    """Look for the teachers of distilled runs: where they were, and among the study's own.

    Args:
        study: its folder, which may have been moved since.
        own: the study's teachers.
        distilled: the runs whose teachers are looked for.
    """
    known = {hash_of(run.folder / CHECKPOINT): run.folder / CHECKPOINT for run in own}
    there, gone = {}, {}
    for path, sha in dict.fromkeys(pair for run in distilled for pair in taught_by(run)):
        places = [path, study.joinpath(*path.parts[-3:])]
        found = known.get(sha) or next((p for p in places if hash_of(p) == sha), None)
        if found:
            there[sha] = found
        else:
            gone.setdefault(sha, []).append(path)
    return Teachers(there, {sha: paths for sha, paths in gone.items() if sha not in there})


def run_of(checkpoint: Path, runs: Iterable[Run]) -> Run | None:
    """The complete run that a checkpoint is of, in the study or elsewhere.

    Raises:
        UserError: the run is there and cannot be used.
    """
    if checkpoint.name != CHECKPOINT:
        return None
    for run in runs:
        if run.folder == checkpoint.parent:
            return run
    found = read_metrics(checkpoint.parent)
    if found is None:
        return None
    run = Run(checkpoint.parent, found)
    _ = run.predictions
    return run


def by_teacher(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs by their teachers; as one lot where every seed has a teacher of its own."""
    keys = ("seed", "teacher/checkpoint", "teacher/sha256")
    known = {tuple(run.metrics[key] for key in keys) for run in runs}
    if all(len(set(part)) == len(known) for part in zip(*known, strict=True)):
        return [list(runs)]
    lots: dict[str, list[Run]] = {}
    for run in runs:
        lots.setdefault(run.metrics["teacher/sha256"], []).append(run)
    return sorted(lots.values(), key=len, reverse=True)


def told(run: Run, others: Iterable[Run]) -> str:
    """Who taught a run, in words that tell it from other runs' teachers: paths, else hashes too."""
    mine = run.metrics["teacher/checkpoint"], run.metrics["teacher/sha256"]
    retrained = any(
        other.metrics["teacher/checkpoint"] == mine[0]
        and other.metrics["teacher/sha256"] != mine[1]
        for other in others
    )
    words = []
    for path, sha in taught_by(run):
        folder = path.parent if path.name == CHECKPOINT else path
        words.append(f"{folder} ({sha[:8]})" if retrained else str(folder))
    return " + ".join(words)
