"""The tables of docs/why.md are made of a study's results."""

import os
import sys
from itertools import product

import gains_figure
import hinton_tables
import pandas as pd
import pytest
import shifted_tables
import torch
import why_tables

from kd.data.bank import make_bank, with_margin


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
    assert said[3] == "| 0 | 0.0 | 90.00 | +2.00 (−10.71 to +14.71) |"
    assert said[4].startswith("| 0 | 0.1 | 90.00 | +0.00 (")


def test_what_is_the_teachers_matter_has_one_student_alone(study):
    runs = pd.read_csv(study / "results.csv")
    runs[runs["model/dropout"] == 0].to_csv(study / "results.csv", index=False)
    found = why_tables.gains(study, ["kd/direction"])
    assert found.gain.tolist() == pytest.approx([1, 3])


def test_students_alone_are_compared_with_those_of_the_lowest_value(study):
    runs = pd.read_csv(study / "results.csv")
    runs.loc[runs["model/dropout"] == 0.1, "test/acc"] -= 0.02
    runs[runs.stage == "student"].to_csv(study / "results.csv", index=False)
    found = why_tables.gains(study, ["model/dropout"]).groupby("model/dropout").gain.mean()
    assert found.to_dict() == pytest.approx({0.0: 0, 0.1: -2})


def test_a_study_is_drawn(study, capsys, monkeypatch, tmp_path):
    drawn = tmp_path / "dropout.png"
    words = ["why_tables.py", str(study), "model/dropout", "--figure", str(drawn)]
    monkeypatch.setattr(sys, "argv", words)
    why_tables.main()
    assert capsys.readouterr().out.strip() == str(drawn)
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_teachers_are_named_by_their_folders():
    path = "outputs/why/teacher/seed=0/model.ckpt"
    assert why_tables.shown(path) == "seed=0"
    assert why_tables.shown(os.pathsep.join([path, path])) == "ensemble of 2"
    assert why_tables.shown(0.1) == "0.1"


def test_the_overview_takes_the_temperature_that_validation_chooses(study, tmp_path):
    frame = pd.read_csv(study / "results.csv")
    hotter = frame[frame.stage == "distill"].assign(**{"kd/T": 10.0, "test/acc": 0.99})
    both = pd.concat([frame, hotter]).assign(**{"val/acc": lambda f: -f["kd/T"].fillna(0)})
    (tmp_path / "why_noise").mkdir()
    both.to_csv(tmp_path / "why_noise" / "results.csv", index=False)
    best, found = gains_figure.chosen(tmp_path / "why_noise", "model/dropout", 0.0)
    assert best == 4
    assert found.mean() == pytest.approx(2)


def test_shifted_images_are_those_of_the_bank():
    """Of ``data.views``: whole pixels, and black where nothing was."""
    images = torch.rand(3, 1, 6, 5)
    bank = make_bank(with_margin(images, 1), torch.arange(3), 1)
    views = bank.take(torch.arange(3 + 8 * 3)).unflatten(0, (9, 3))
    moved = [shifted_tables.shifted(images, *by) for by in product((-1, 0, 1), repeat=2)]
    for view in views:
        assert sum(view.equal(one) for one in moved) == 1


def test_raising_the_bias_of_a_class_wins_its_images_back():
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([1, 0, 1])
    assert hinton_tables.errors(logits, labels) == 1
    assert hinton_tables.errors(hinton_tables.raised(logits, 1, 2.0), labels) == 0
    assert logits[0, 1] == 0
