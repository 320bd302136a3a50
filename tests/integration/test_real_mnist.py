"""The main job on the real 70,000 images: the defaults are worth having."""

import json
from pathlib import Path

import pytest


def accuracy(stage: str) -> float:
    (path,) = Path("outputs/main", stage).glob("*/metrics.json")
    return json.loads(path.read_text())["test/acc"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_quick_teacher_is_as_good_as_the_talks(cli, seed):
    assert cli("+experiment=quick_teacher", "study=main", f"seed={seed}").code == 0
    assert accuracy("teacher") > 0.984


@pytest.mark.slow
def test_teacher_student_and_a_distillation_on_mnist(cli):
    """One seed each: the bounds are the targets for the mean, less the spread of a seed."""
    assert cli("stage=teacher").code == 0
    assert accuracy("teacher") > 0.983
    assert cli("stage=student").code == 0
    assert accuracy("student") > 0.960
    assert cli("stage=distill", "kd.T=1", "kd.alpha=0.5").code == 0
    (path,) = Path("outputs/main/distill").glob("*/metrics.json")
    found = json.loads(path.read_text())
    assert found["test/acc"] > 0.960
    assert found["fidelity/agreement"] > 0.960
    assert found["data/split"] == "official"
