"""The report of a study whose runs lie in packs."""

import json
import math
import re
import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import MINI, one_line

from kd.files import PROJECT
from kd.report.packed import PackedRun
from kd.report.study import Study, load_study
from kd.training import packs
from kd.training.unpack import unpack

MAIN = Path("outputs/main")
PAGE = MAIN / "report/index.html"
ALONE = ("-m", "stage=student", *MINI, "seed=0,1,2")
TAUGHT = ("-m", "stage=distill", *MINI, "kd.T=1,4", "kd.alpha=0,0.5,1", "seed=0,1,2")
PACKED = ("store.compact_from=2", "logger=[]")

pytestmark = pytest.mark.slow


def sweep(cli, *commands: tuple[str, ...]) -> None:
    """Train students that lie in packs alone."""
    for words in commands:
        said = cli(*words, *PACKED)
        assert said.code == 0, said.err
    for stage in ("student", "distill"):  # those that have been unpacked to be looked at
        shutil.rmtree(MAIN / stage, ignore_errors=True)


def reported(cli) -> dict[str, pd.DataFrame]:
    """The tables of the report by name."""
    said = cli("stage=report")
    assert said.code == 0, said.err
    return {path.stem: pd.read_csv(path) for path in (MAIN / "report").glob("*.csv")}


def section(title: str) -> str:
    """The text of a section."""
    return PAGE.with_name("report.md").read_text().split(f"## {title}\n\n")[1].split("\n\n")[0]


def compared(study: Study) -> dict:
    """The comparisons by method, T and alpha; and the verdict's words."""
    found = {(c.method.label, c.T, c.alpha): f for c, f in study.comparisons.items()}
    return found | {"verdict": (study.verdict.word, study.verdict.sentence)}


def unpack_all() -> None:
    for pack in packs.packs_of(MAIN.absolute()):
        for name in pack.names:
            unpack(MAIN.absolute() / name)
        shutil.rmtree(pack.folder)


def test_it_is_that_of_the_same_runs_unpacked(cli, teacher):
    another = (*TAUGHT[:2], *MINI, "kd=dkd", "kd.T=1,4", "kd.alpha=0,0.5", "seed=0,1")
    sweep(cli, ALONE, TAUGHT, another)
    before = load_study(MAIN)
    assert sum(isinstance(run, PackedRun) for run in before.runs) == len(before.runs) - 1 == 29
    mine = reported(cli)
    text = PAGE.read_text()
    assert "Left out" not in text
    assert len(before.methods) == 2
    unpack_all()
    after = load_study(MAIN)
    assert not any(isinstance(run, PackedRun) for run in after.runs)
    assert [run.name for run in before.runs] == [run.name for run in after.runs]
    assert repr(compared(before)) == repr(compared(after))
    its = reported(cli)
    assert mine.keys() == its.keys()
    lacking = mine["runs"].loc[mine["runs"]["kl"].isna(), "run"]
    assert {name.partition("/")[0] for name in [*lacking]} == {"student"}  # a pack has no logits
    for tables in (mine, its):
        for table in (tables["runs"], tables["methods"]):
            table.loc[[str(name).startswith("student") for name in table.iloc[:, 0]], "kl"] = 0
        tables.pop("cost")  # takes another time each time
    for name in mine:
        rtol = 1e-9 if name in ("runs", "methods") else 0
        pd.testing.assert_frame_equal(mine[name], its[name], rtol=rtol, atol=0, obj=name)

    def data(page: str) -> dict:
        (found,) = re.findall(r'<script type="application/json" id="data">(.*)</script>', page)
        return json.loads(found)

    assert data(text) == data(PAGE.read_text())


def test_one_seed_is_compared_image_by_image(cli, teacher):
    sweep(cli, *((*words[:-1], "seed=0", "optim.lr=0.01,0.02") for words in (ALONE, TAUGHT)))
    reported(cli)
    mine = section("Verdict")
    assert "For these two trained networks: McNemar p = " in mine
    unpack_all()
    reported(cli)
    assert section("Verdict") == mine


@pytest.mark.parametrize("logits", [False, True])
def test_without_weights_it_says_what_is_left_out(cli, teacher, logits):
    kept = "store.weights=none", f"store.logits={str(logits).lower()}"
    sweep(cli, ALONE + kept, TAUGHT + kept)
    tables = reported(cli)
    names = [path.parent.name for path in MAIN.glob("*/*/metrics.json")]
    assert len(names) == 1  # the teacher: nothing can be unpacked
    assert "weights have not been kept" in section("What the networks cost")
    assert list(tables["cost"]) == ["cost", "teacher"]
    said = "Left out: student alone, distilled (T = "
    assert (said in section("Calibration")) is not logits
    assert set(tables["curves"]["network"]) > {"teacher", "student alone"}
    assert len(tables["runs"]) == 22
    assert not any(map(math.isnan, tables["runs"]["macro_f1"]))
    assert "test images (distilled" in section("Images on which teacher and student disagree")


@pytest.mark.parametrize("name", [packs.RUNS, packs.HISTORY, packs.PREDICTIONS])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_named_with_its_remedy(cli, teacher, name, damage):
    sweep(cli, ALONE, TAUGHT)
    for path in MAIN.glob(f"packs/*/{name}"):
        content = bytearray(path.read_bytes())
        content[40:60] = bytes(20)
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    said = cli("stage=report")
    assert said.code == 1
    one_line(said.err, f"{name}: cannot be read (")
    assert said.err.endswith("; delete its folder to train again\n")
    assert not PAGE.exists()


def test_rows_are_those_of_the_table(cli, teacher):
    sweep(cli, ALONE, TAUGHT)
    for pack in packs.packs_of(MAIN.absolute()):
        assert [dict(row) for row in pack.rows()] == pack.table().to_pylist()
        assert [*map(len, pack.curves("val/acc"))] == [2] * len(pack.names)
        for name, curve in zip(pack.names, pack.curves("val/acc"), strict=True):
            assert [row["val/acc"] for row in pack.history(name)] == curve.tolist()


def test_a_page_about_very_many_runs_shows_a_part(cli, tmp_path, monkeypatch):
    """7,510 runs: the page lists the best and maps evenly spaced cells, the chosen one included."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["growth.py"])
    growth = runpy.run_path(str(PROJECT / "benchmarks/growth.py"))
    growth["write_study"](Path("outputs").absolute(), growth["Sweep"](150, 5, 10))
    tables = reported(cli)
    assert PAGE.stat().st_size < 3e6
    assert len(tables["accuracy"]) == 750  # all cells
    assert 1000 <= len(tables["runs"]) < 1010
    assert "7,511 runs" in section("All runs")
    assert "results.csv and results.parquet have all" in section("All runs")
    assert len(pd.read_parquet(MAIN / "results.parquet")) == 7511
    assert "40 of 150 temperatures" in PAGE.read_text()
    study = load_study(MAIN)
    chosen = study.verdict.chosen
    assert chosen is not None
    (found,) = re.findall(r'id="data">(.*)</script>', PAGE.read_text())
    data = json.loads(found)
    cell = data["cells"][data["chosen"]]
    assert (cell["T"], cell["alpha"]) == (chosen.T, chosen.alpha)
    assert len(cell["runs"]) == 10
    best = max(run.metrics["val/acc"] for run in study.runs)
    assert max(tables["runs"]["validation_accuracy"]) == pytest.approx(best)
