"""The teacher's outputs are kept in the study, and whatever does not fit is computed anew."""

from pathlib import Path

import pytest
from helpers import MINI, complete, metrics, weights
from safetensors import SafetensorError

from kd.training import kept_outputs

DISTILL = ("stage=distill", *MINI)
FOLDER = Path("outputs/main", kept_outputs.FOLDER)


@pytest.fixture
def computed(monkeypatch) -> list[bool]:
    """An entry for each time that a teacher's outputs are computed."""
    times: list[bool] = []
    compute = kept_outputs.teacher_outputs

    def counted(teacher, data, hidden):
        times.append(hidden)
        return compute(teacher, data, hidden)

    monkeypatch.setattr(kept_outputs, "teacher_outputs", counted)
    return times


def kept() -> Path:
    """The one file that is kept."""
    (path,) = FOLDER.iterdir()
    return path


def bits() -> dict[str, list[float]]:
    """All weights of the one distilled student."""
    (run,) = complete(stage="distill")
    return {name: value.flatten().tolist() for name, value in weights(run).items()}


def test_kept_outputs_are_those_that_are_computed(cli, teacher, computed):
    assert cli(*DISTILL).code == 0
    first, told = bits(), metrics(complete(stage="distill")[0])
    assert cli(*DISTILL, "overwrite=true").code == 0
    assert computed == [False]
    assert bits() == first
    again = metrics(complete(stage="distill")[0])
    assert {k: v for k, v in again.items() if v != told[k]}.keys() <= {"time/fit_s"}


@pytest.mark.slow
def test_sweeps_use_them_and_hidden_representations_are_others(cli, teacher, computed):
    assert cli("-m", *DISTILL, "kd.T=1,2").code == 0
    assert cli("-m", *DISTILL, "kd.T=3,4").code == 0
    assert computed == [False]
    for seed in (0, 1):
        assert cli(*DISTILL, "kd=hint", f"seed={seed}").code == 0
    assert computed == [False, True]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def swollen(content: bytes) -> bytes:
    return b"\xff" * 8 + content[8:]


@pytest.mark.parametrize("damage", [cut, flipped, swollen, lambda content: b""])
def test_damaged_ones_are_computed_anew(cli, teacher, computed, damage):
    assert cli(*DISTILL).code == 0
    first, whole = bits(), kept().read_bytes()
    kept().write_bytes(damage(whole))
    said = cli(*DISTILL, "overwrite=true")
    assert said.code == 0
    assert "computing the teacher's outputs again" in said.out
    assert len(computed) == 2
    assert bits() == first
    assert kept().read_bytes() == whole


def test_a_foreign_file_is_not_believed(cli, teacher, computed):
    """One of other images under the right name: its digest stands for both."""
    assert cli(*DISTILL).code == 0
    other = kept().read_bytes()
    assert cli(*DISTILL, "overwrite=true", "kd=hint").code == 0
    (mine,) = (path for path in FOLDER.iterdir() if path.read_bytes() != other)
    mine.write_bytes(other)
    assert cli(*DISTILL, "kd=hint", "seed=1").code == 0
    assert computed == [False, True, True]


def test_a_teacher_trained_anew_has_outputs_of_its_own(cli, teacher, computed):
    assert cli(*DISTILL).code == 0
    assert cli("stage=teacher", *MINI, "overwrite=true", "optim.lr=0.003").code == 0
    assert cli(*DISTILL, "overwrite=true", "teacher.checkpoint=outputs/main/teacher").code == 1
    (anew,) = (run for run in complete(stage="teacher") if run.name != teacher.name)
    given = f'teacher.checkpoint="{anew}"'
    assert cli(*DISTILL, given).code == 0
    assert len(computed) == 2


def test_few_are_kept(cli, teacher, computed, monkeypatch):
    monkeypatch.setattr(kept_outputs, "MOST_FILES", 1)
    assert cli(*DISTILL).code == 0
    first = kept()
    assert cli(*DISTILL, "kd=hint").code == 0
    assert kept() != first


def test_another_number_of_threads_computes_its_own(cli, teacher, computed, monkeypatch):
    assert cli(*DISTILL).code == 0
    monkeypatch.setattr(kept_outputs.torch, "get_num_threads", lambda: 7)
    assert cli(*DISTILL, "seed=1").code == 0
    assert len(computed) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error")])
def test_no_room_for_them_is_no_failure(cli, teacher, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(kept_outputs, "save_file", full)
    assert cli(*DISTILL).code == 0
    assert not any(FOLDER.iterdir())
