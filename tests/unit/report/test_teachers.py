"""What teachers are called."""

from pathlib import Path

from kd.report.evaluation import Run
from kd.report.teachers import teacher_label


def labels(*teachers: tuple[str, str]) -> list[str]:
    runs = [
        Run(Path(str(number)), {"teacher/checkpoint": path, "teacher/sha256": sha256})
        for number, (path, sha256) in enumerate(teachers)
    ]
    return [teacher_label(run, runs) for run in runs]


def test_teachers_are_called_by_what_tells_them_apart():
    plain, longer = "o/s/teacher/seed=0/model.ckpt", "o/s/teacher/seed=0,x=2/model.ckpt"
    assert labels((plain, "a"), (longer, "b")) == ["seed=0", "x=2"]
    others = [f"o/s/teacher/seed={seed},x=2/model.ckpt" for seed in (0, 1)]
    assert labels(*zip(others, "ab", strict=True)) == ["seed=0", "seed=1"]
    elsewhere = "o/other/teacher/seed=0/model.ckpt"
    assert labels((plain, "a"), (elsewhere, "b")) == [
        "o/s/teacher/seed=0",
        "o/other/teacher/seed=0",
    ]
    assert labels((plain, "a"), ("best.pt", "b")) == ["seed=0", "best.pt"]
    assert labels((plain, "a" * 9), (plain, "b" * 9)) == ["seed=0 (aaaaaaaa)", "seed=0 (bbbbbbbb)"]
