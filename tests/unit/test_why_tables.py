"""The tables of docs/why.md are made of a study's results."""

import sys

import pandas as pd
import pytest
import why_tables


def row(stage: str, seed: int, dropout: float, acc: float, **more: object) -> dict[str, object]:
    own = {"stage": stage, "seed": seed, "model/dropout": dropout, "test/acc": acc}
    return own | {"kd/T": None, "kd/alpha": None} | more


@pytest.fixture
def study(tmp_path):
    """Two seeds and two settings; the gains are 1 and 3 points, and 0 twice."""
    taught = {"kd/T": 4.0, "kd/alpha": 0.0, "kd/direction": "forward"}
    rows = [row("teacher", 0, 0.1, 0.99)]
    for dropout, gains in ((0.0, (0.01, 0.03)), (0.1, (0.0, 0.0))):
        for seed, gain in enumerate(gains):
            rows.append(row("student", seed, dropout, 0.9))
            rows.append(row("distill", seed, dropout, 0.9 + gain, **taught))
    pd.DataFrame(rows).to_csv(tmp_path / "results.csv", index=False)
    return tmp_path


def test_gains_are_paired_by_seed_and_setting(study, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["why_tables.py", str(study), "model/dropout"])
    why_tables.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "n = 2 seeds per cell"
    assert said[1] == "| alpha | model/dropout | alone, % | T = 4 |"
    assert said[3] == "| 0 | 0.0 | 90.00 | +2.00 (-10.71 to +14.71) |"
    assert said[4].startswith("| 0 | 0.1 | 90.00 | +0.00 (")


def test_what_is_the_teachers_matter_has_one_student_alone(study):
    runs = pd.read_csv(study / "results.csv")
    runs[runs["model/dropout"] == 0].to_csv(study / "results.csv", index=False)
    found = why_tables.gains(study, ["kd/direction"])
    assert found.gain.tolist() == pytest.approx([1, 3])
