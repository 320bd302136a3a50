"""The report: whole on a real small study, and in words where a study lacks something."""

import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import DIGITS, MINI, make_up_run

import train
from kd.config.schema import Config
from kd.errors import UserError
from kd.files import PROJECT
from kd.report import stats
from kd.report.comparison import list_notes
from kd.report.study import load_study
from kd.training.run_folder import read_metrics, write_metrics

PAGE = Path("outputs/main/report/index.html")
PARTS = {
    "accuracy",
    "gain",
    "agreement",
    "kl",
    "curves",
    "confusion",
    "calibration",
    "disagreements",
}
TABLES = {"accuracy", "curves", "classes", "cost", "runs", "settings", "per_class", "confusion"}


def sections(page: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.S))


@pytest.fixture(scope="session")
def _studied(_trained, tmp_path_factory) -> Path:
    """The outputs of a whole small study, made once."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(_trained, folder / "outputs")
    commands = (
        ("stage=student", "seed=0,1"),
        ("stage=distill", "kd.T=1,4", "kd.alpha=0.5,1", "seed=0,1"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands:
            patch.setattr(sys, "argv", ["train.py", "-m", *words, *MINI])
            train.main()
    return folder / "outputs"


@pytest.fixture
def study(cli, teacher, _studied):
    """A teacher, two students and a 2 × 2 grid of two seeds on the small digits."""
    shutil.copytree(_studied, "outputs", dirs_exist_ok=True)
    return cli


def test_the_report_is_whole(study):
    said = study("stage=report")
    assert said.code == 0, said.err
    assert said.out.strip().splitlines()[-1] == f"report: {PAGE}"
    page = PAGE.read_text()
    parts = sections(page)
    assert [*parts][:2] == ["verdict", "try"]
    assert "factors" not in parts, "T and alpha are all that it crosses"
    assert "to try: The student drops 10 % of its hidden units" in said.out
    assert "try model.dropout=0." in parts["try"]
    assert re.search(r"Distillation here: (works|does not work|cannot tell)\.", parts["verdict"])
    assert "Validation chooses T = " in parts["verdict"]
    for slug in PARTS:
        assert (PAGE.parent / f"{slug}.png").read_bytes().startswith(b"\x89PNG")
        assert re.search(
            r'<svg [^>]*aria-label="[^"]{10,}"|<td |<img [^>]*alt="[^"]{10,}"', parts[slug]
        )
    for slug in TABLES:
        assert len(pd.read_csv(PAGE.parent / f"{slug}.csv")) > 0
    assert "95 % of the teacher" in parts["cost"]
    assert "1/12.1 of its multiplications" in parts["cost"]
    outside = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page)
    assert outside == ["../results.csv", "runs.csv", "report.md"], "links to what lies beside it"
    assert "## Verdict" in (PAGE.parent / "report.md").read_text()
    assert list(PAGE.parent.glob("events.out.tfevents*"))


@pytest.mark.slow
def test_every_setting_of_the_student_is_compared_with_its_own_students_alone(cli):
    study = Path("outputs/main")
    make_up_run(study, "teacher", 0.98)
    for seed in range(3):
        for noise, gain in ((0.0, 0.001), (0.4, 0.05)):
            noisy = {"data__label_noise": noise, "kd__alpha": 0.0}
            make_up_run(study, "student", 0.9 - noise / 10 + seed / 1000, seed, **noisy)
            for T in (1.0, 4.0):
                accuracy = 0.9 - noise / 10 + (1 + T / 100) * gain + seed / 900
                make_up_run(study, "distill", accuracy, seed, kd__T=T, **noisy)
    assert cli("stage=report").code == 0
    rows = pd.read_csv(PAGE.parent / "methods.csv").set_index("method")
    names = [f"data.label_noise={noise}" for noise in (0.0, 0.4)]
    assert {*rows.index} == {
        f"{of}, {name}" for of in ("hinton", "student alone") for name in names
    }
    distilled, alone = (
        rows.loc[[f"{of}, {n}" for n in names]] for of in ("hinton", "student alone")
    )
    assert distilled["T"].tolist() == [4, 4]
    assert distilled["gain"].tolist() == pytest.approx([0.00115, 0.05211], abs=1e-4)
    assert alone["test_accuracy"].tolist() == pytest.approx([0.901, 0.861], abs=1e-4)
    assert "listed, not compared" not in PAGE.read_text()


@pytest.mark.parametrize("found", [True, False])
def test_it_is_shown_in_the_browser(cli, monkeypatch, found):
    make_up_run(Path("outputs/main"), "teacher", 0.95)
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or found)
    assert cli("stage=report").code == 0
    assert opened == []
    said = cli("stage=report", "open=true")
    assert said.code == 0, said.err
    assert opened == [PAGE.resolve().as_uri()]
    assert ("no browser is found" in said.out + said.err) == (not found)


@pytest.mark.slow
def test_a_study_answers_in_python(study):
    found = load_study("outputs/main")
    frame = found.frame()
    assert len(frame) == len(found.runs) == 11
    assert frame["run"].tolist() == [run.name for run in found.runs]
    assert {"seed", "kd/T", "test/acc", "fidelity/kl"} <= set(frame.columns)
    assert repr(found) == "Study('outputs/main', 11 runs)"
    verdict, cell = found.verdict, found.verdict.chosen
    assert verdict.word in ("works", "does not work", "cannot tell")
    assert "The cell chosen on validation has" in verdict.sentence
    assert (cell.method.label, cell.alpha, set(cell.runs)) == ("hinton", 0.5, {0, 1})
    assert "method=Method(label='hinton')" in repr(verdict.chosen)
    gains = [
        run.metrics["test/acc"] - cell.method.controls[s].metrics["test/acc"]
        for s, run in cell.runs.items()
    ]
    assert found.comparisons[cell].gain.mean == pytest.approx(np.mean(gains))
    study("stage=report")
    page = sections(PAGE.read_text())["verdict"]
    assert f"Distillation here: {verdict.word}. {verdict.sentence}" in html.unescape(page)


def test_a_run_gives_its_network_and_predictions(study):
    for run in load_study(Path("outputs/main")).runs:
        assert not run.network().training
        assert run.predictions.logits.shape == (len(run.predictions.labels), 10)
        right = (run.predictions.classes == run.predictions.labels).double().mean().item()
        assert right == pytest.approx(run.metrics["test/acc"])
        run.forget_predictions()
    (run.folder / "model.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        run.network()


def test_a_study_without_distilled_runs_says_so(cli, teacher):
    verdict = load_study("outputs/main").verdict
    assert verdict.word == "cannot tell"
    assert verdict.chosen is None
    assert "no distilled run" in verdict.sentence
    with pytest.raises(UserError, match="no complete run to report"):
        load_study("outputs/nowhere")


@pytest.mark.slow
def test_its_figures_are_those_of_the_runs(study):
    study("stage=report")
    cells = pd.read_csv(PAGE.parent / "accuracy.csv").set_index(["T", "alpha"])
    runs = [json.loads(p.read_text()) for p in Path("outputs/main").glob("*/*/metrics.json")]
    alone = {r["seed"]: r["test/acc"] for r in runs if r["stage"] == "student"}
    for (T, alpha), row in cells.iterrows():
        mine = {r["seed"]: r["test/acc"] for r in runs if (r["kd/T"], r["kd/alpha"]) == (T, alpha)}
        assert row["seeds"] == len(mine) == 2
        assert row["test_accuracy"] == pytest.approx(np.mean(list(mine.values())))
        gains = [mine[seed] - alone[seed] for seed in mine]
        assert row["gain"] == pytest.approx(np.mean(gains))
    assert (cells.xs(1.0, level="alpha")["gain"] == 0).all()
    table = pd.read_csv(PAGE.parent / "runs.csv").set_index("run")
    for r in runs:
        (name,) = [n for n in table.index if n.startswith(r["stage"]) and matches(n, r)]
        assert table.loc[name, "test_accuracy"] == pytest.approx(r["test/acc"])
        if r["stage"] == "distill":
            assert table.loc[name, "agreement"] == pytest.approx(r["fidelity/agreement"])
    assert table.loc[table.index.str.startswith("student"), "agreement"].notna().all(), (
        "the control"
    )


def matches(name: str, r: dict) -> bool:
    cell = f"T={r['kd/T']},alpha={r['kd/alpha']}," if r["stage"] == "distill" else ""
    return f"/{cell}seed={r['seed']}," in name


@pytest.mark.slow
def test_a_report_can_be_made_again(study):
    study("stage=report")
    (PAGE.parent / "stale.png").touch()
    assert study("stage=report").code == 0
    assert not (PAGE.parent / "stale.png").exists()
    assert len(list(PAGE.parent.glob("events.out.tfevents*"))) == 1


@pytest.mark.slow
def test_other_settings_are_listed_but_not_compared(study):
    study("stage=distill", *MINI, "optim.lr=0.1")
    study("stage=report")
    page = PAGE.read_text()
    assert "Distilled runs of others are listed, not compared: 1 of optim.lr=0.1." in page
    assert "optim.lr=0.1" in sections(page)["runs"]


@pytest.mark.slow
def test_runs_older_than_a_setting_are_compared(study):
    (run, *_) = sorted(Path("outputs/main/distill").iterdir())
    younger = ("optim/name", "optim/momentum", "trainer/precision", "trainer/patience")
    older = {key: v for key, v in read_metrics(run).items() if key not in younger}
    assert len(older) == len(read_metrics(run)) - len(younger)
    write_metrics(run, older)
    study("stage=report")
    assert "listed, not compared" not in PAGE.read_text()
    write_metrics(run, older | {"trainer/precision": "bf16"})
    study("stage=report")
    said = "Distilled runs of others are listed, not compared: 1 of trainer.precision=bf16."
    assert said in PAGE.read_text()


def method_rows() -> pd.DataFrame:
    return pd.read_csv(PAGE.parent / "methods.csv").set_index("method")


@pytest.mark.slow
def test_methods_are_set_side_by_side(cli, teacher):
    cli("-m", "stage=student", *MINI, "seed=0,1")
    views = ("data.augment.shift=2", "data.augment.rotate=15", "data.augment.mixup=1")
    cli("-m", "stage=student", *MINI, *views, "seed=0,1")
    words = ("kd=hinton,dist,function_matching", "kd.stop_epoch=null", "seed=0,1")
    cli("-m", "stage=distill", *MINI, *words)
    cli("-m", "stage=distill", *MINI, "kd=dist", "kd.within_weight=0.5", "seed=0,1")
    said = cli("stage=report")
    assert said.code == 0, said.err
    rows = method_rows()
    assert set(rows.index) == {
        "hinton",
        "dist, within_weight=2.0",
        "dist, within_weight=0.5",
        "function_matching",
        "student alone",
        "student alone, mixup=1, rotate=15, shift=2",
    }
    runs = [json.loads(p.read_text()) for p in Path("outputs/main").glob("*/*/metrics.json")]
    for name, method, control in (
        ("hinton", "hinton", "student alone"),
        ("function_matching", "function_matching", "student alone, mixup=1, rotate=15, shift=2"),
    ):
        mine = [r for r in runs if r["kd/method"] == method]
        row = rows.loc[name]
        assert row["seeds"] == 2
        for column, key in {"test_accuracy": "test/acc", "kl": "fidelity/kl"}.items():
            assert row[column] == pytest.approx(np.mean([r[key] for r in mine])), column
        gain = row["test_accuracy"] - rows.loc[control, "test_accuracy"]
        assert row["gain"] == pytest.approx(gain)
    assert rows["validation_accuracy"].is_monotonic_decreasing
    verdict = sections(PAGE.read_text())["verdict"]
    assert re.search(
        r"Validation chooses (hinton|dist, within_weight=\d\.\d|function_matching), T = ", verdict
    )
    assert "other settings" not in verdict


@pytest.mark.slow
def test_students_of_another_teacher_are_scored_against_the_first_too(cli, teacher):
    cli("stage=teacher", *MINI, "seed=1")
    cli("-m", "stage=student", *MINI, "seed=0,1")
    cli("-m", "stage=distill", *MINI, "teacher.seed=0,1", "seed=0,1")
    assert cli("stage=report").code == 0
    rows = method_rows()
    first, second = (rows.loc[f"hinton, taught by seed={seed}"] for seed in (0, 1))
    runs = [json.loads(p.read_text()) for p in Path("outputs/main/distill").glob("*/metrics.json")]
    own = [
        np.mean([r["fidelity/kl"] for r in runs if r["teacher/seed"] == seed]) for seed in (0, 1)
    ]
    assert first["kl"] == pytest.approx(own[0])
    assert np.isnan(first["own_kl"])
    assert second["own_kl"] == pytest.approx(own[1])
    assert second["kl"] != pytest.approx(own[1])
    assert rows.loc["student alone", "kl"] > 0


def test_a_teacher_alone_is_reported(cli, teacher):
    assert cli("stage=report").code == 0
    parts = sections(PAGE.read_text())
    assert "Cannot tell: the study has no distilled run" in parts["verdict"]
    assert "Needs a teacher and a student" in parts["disagreements"]
    assert not re.search(r"\b(inf|nan)\b", re.sub(r"base64,[^\"]*", "", PAGE.read_text()))


def test_a_student_alone_is_reported(cli):
    cli("stage=student", *MINI)
    assert cli("stage=report").code == 0
    assert "no teacher" in sections(PAGE.read_text())["runs"]


@pytest.mark.slow
def test_one_cell_of_one_seed_without_a_control_is_reported(cli, teacher):
    cli("stage=distill", *MINI)
    assert cli("stage=report").code == 0
    parts = sections(PAGE.read_text())
    assert "has a student alone of its seed: run python" in parts["verdict"]
    assert "run python train.py stage=student" in parts["gain"]


@pytest.mark.slow
def test_one_seed_says_what_it_cannot_tell(cli, teacher):
    cli("stage=student", *MINI)
    cli("stage=distill", *MINI)
    assert cli("stage=report").code == 0
    verdict = sections(PAGE.read_text())["verdict"]
    assert "one seed cannot tell" in verdict
    assert "McNemar p = " in verdict
    assert "bootstrap interval over test images" in verdict


@pytest.mark.slow
def test_runs_that_failed_are_named(study):
    path = next(Path("outputs/main/distill").glob("T=4.0,alpha=0.5,seed=1*"))
    (path / "metrics.json").unlink()
    assert study("stage=report").code == 0
    assert f"1 run is not complete: distill/{path.name}" in sections(PAGE.read_text())["verdict"]


def test_a_study_without_its_teacher_is_reported(study, teacher):
    shutil.rmtree(teacher)
    assert study("stage=report").code == 0
    assert "no teacher" in sections(PAGE.read_text())["runs"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "said"),
    [("nowhere", "The images are not at hand"), ("swapped", "are not those of the runs")],
)
def test_images_are_those_of_the_runs_or_none(study, folder, said):
    shutil.copytree(DIGITS, "swapped")
    for path in Path("swapped/MNIST/raw").glob("*labels*"):
        content = path.read_bytes()
        path.write_bytes(content[:8] + bytes(reversed(content[8:])))
    for path in Path("outputs/main/distill").glob("*/.hydra/config.yaml"):
        text = path.read_text()
        path.write_text(text.replace(str(DIGITS), folder))
    assert study("stage=report").code == 0
    assert said in sections(PAGE.read_text())["disagreements"]


@pytest.mark.slow
def test_the_teacher_shown_is_the_one_that_taught(study, teacher):
    study("stage=teacher", *MINI, "optim.lr=0.1")
    study("stage=report")
    assert f"fidelity is to teacher/{teacher.name}." in sections(PAGE.read_text())["runs"]


def test_an_empty_study_is_an_error_in_a_line(cli):
    said = cli("stage=report", "study=empty")
    assert said.code == 1
    assert said.err.startswith("error: outputs/empty: no complete run to report")
    assert said.err.count("\n") == 1


def test_a_report_is_not_swept(cli, teacher):
    said = cli("-m", "stage=report", "study=main,other")
    assert said.code == 1
    assert "one study at a time" in said.err


@pytest.mark.slow
def test_the_talks_study_is_put_beside_the_talk(study):
    Path("outputs/main").rename("outputs/talk")
    assert study("stage=report", "study=talk").code == 0
    part = sections(Path("outputs/talk/report/index.html").read_text())["talk"]
    for point in ("98.4 %", "95.7 to 96.8 %", "along T = 1", "9 and 4, 5 and 3, 6 and 5"):
        assert point in part


def runs_of(stage: str, pattern: str = "*") -> list[Path]:
    return sorted(Path("outputs/main", stage).glob(pattern))


def change(run: Path, **figures) -> None:
    """Write other figures into a run's metrics."""
    write_metrics(run, read_metrics(run) | figures)


@pytest.mark.slow
def test_a_control_is_shown_and_neither_tested_nor_chosen(study):
    for run in runs_of("distill", "*alpha=1.0*"):  # no longer the student alone bit for bit
        mine = read_metrics(run)
        change(run, **{"test/acc": mine["test/acc"] + 0.005 * mine["seed"] + 0.01, "val/acc": 1.0})
    assert study("stage=report").code == 0
    table = pd.read_csv(PAGE.parent / "accuracy.csv")
    assert (table["p_holm"].isna() == (table["alpha"] == 1)).all()
    assert table["gain"].notna().all()
    assert re.search(r"Validation chooses T = \d, alpha = 0.5:", PAGE.read_text())
    assert "At alpha = 1 a cell is the student alone" in sections(PAGE.read_text())["gain"]
    rows = (PAGE.parent / "report.md").read_text().splitlines()
    assert not re.search(r"\b(inf|nan)\b", "\n".join(rows))


def test_the_choice_is_blind_to_test_figures(study):
    random, chosen = np.random.default_rng(0), set()
    for _ in range(12):
        for run in [*runs_of("distill"), *runs_of("student")]:
            change(run, **{"test/acc": float(random.integers(0, 4)) / 3})
        cells = load_study("outputs/main").comparisons
        choice, among = stats.choose(cells), stats.eligible(cells)
        chosen.add((choice.T, choice.alpha, *((cell.T, cell.alpha) for cell in among)))
    assert len(chosen) == 1


@pytest.mark.slow
def test_a_teacher_that_was_trained_anew_scores_nobody(study, teacher):
    assert study("stage=teacher", *MINI, "optim.lr=0.003").code == 0
    fresh = next(p for p in teacher.parent.iterdir() if "optim.lr" in p.name)
    shutil.rmtree(teacher)
    fresh.rename(teacher)  # another configuration in the same folder
    said = study("stage=report")
    assert said.code == 0, said.err
    assert "the teacher has changed" in said.out
    parts = sections(PAGE.read_text())
    assert "the teacher has changed" in parts["verdict"]
    assert f"{teacher.name}/model.ckpt" in parts["verdict"]
    assert "overwrite=true" in parts["verdict"]
    table = pd.read_csv(PAGE.parent / "runs.csv")
    assert "agreement" not in table, "no teacher that taught is there to score against"
    assert "own, as it was when it taught" in parts["agreement"]
    assert "Needs a teacher" in parts["disagreements"]


@pytest.mark.slow
def test_students_of_a_teacher_and_of_its_successor_are_two_methods(study, teacher):
    shutil.copytree(teacher, "first")
    study("stage=teacher", *MINI, "overwrite=true", "study=other", "seed=5")
    (other,) = Path("outputs/other/teacher").iterdir()
    shutil.copy(other / "model.ckpt", teacher)
    shutil.copy(other / "predictions.npz", teacher)
    write_metrics(teacher, read_metrics(other) | {"seed": 0, "study": "main"})
    assert (
        study("-m", "stage=distill", *MINI, "kd.T=2,4,8", "kd.alpha=0,0.2,0.4", "seed=0,1").code
        == 0
    )
    said = study("stage=report")
    assert said.code == 0, said.err
    assert "the teacher has changed" in said.out
    rows = method_rows()
    labels = [label for label in rows.index if label.startswith("hinton")]
    assert len(set(labels)) == 2
    old, new = (
        next(label for label in labels if label.endswith(f"({sha[:8]})"))
        for sha in (sha_of(Path("first")), sha_of(teacher))
    )
    assert rows.loc[new, "kl"] > 0
    assert np.isnan(rows.loc[old, "kl"])
    assert rows.loc[old, "own_kl"] > 0, "what its runs noted of their own teacher"
    table = pd.read_csv(PAGE.parent / "runs.csv").set_index("run")
    assert table.loc[table.index.str.contains("T=1.0"), "agreement"].isna().all()
    assert table.loc[table.index.str.contains("T=8.0"), "agreement"].notna().all()


def sha_of(run: Path) -> str:
    return hashlib.sha256((run / "model.ckpt").read_bytes()).hexdigest()


def test_seeds_that_one_teacher_taught_before_and_after_are_no_single_method(study, teacher):
    """Every seed has a teacher of its own there, but all of one path."""
    for run in runs_of("distill"):
        if read_metrics(run)["seed"] == 1:
            change(run, **{"teacher/sha256": "f" * 64})
    methods = load_study(Path("outputs/main")).methods
    assert len({method.label for method in methods}) == 2


def write_text(name: str, text: str | bytes):
    return lambda run: (run / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def figure(**changes):
    return lambda run: write_metrics(run, json.loads((run / "metrics.json").read_text()) | changes)


def without(key: str):
    def damage(run: Path) -> None:
        found = read_metrics(run)
        found.pop(key)
        write_metrics(run, found)

    return damage


def note(run: Path) -> None:
    """Have the run's metrics vouch for the predictions as they are."""
    content = (run / "predictions.npz").read_bytes()
    change(run, **{"predictions/sha256": hashlib.sha256(content).hexdigest()})


def arrays(**changes):
    """Write predictions of another form, with a digest that fits."""

    def damage(run: Path) -> None:
        with np.load(run / "predictions.npz") as file:
            parts = dict(file)
        parts = {name: changes.get(name, lambda part: part)(part) for name, part in parts.items()}
        np.savez(run / "predictions.npz", **{k: v for k, v in parts.items() if v is not None})
        note(run)

    return damage


def truncated(run: Path) -> None:
    path = run / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-200])


def altered(run: Path) -> None:
    path = run / "predictions.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def bomb(run: Path) -> None:
    """40 MB of zeros in 40 kB."""
    zeros = np.zeros((1_000_000, 10), np.float32)
    labels = np.zeros(1_000_000, np.int64)
    np.savez_compressed(run / "predictions.npz", logits=zeros, labels=labels, indices=labels)
    note(run)


def boast(run: Path) -> None:
    """A header of a shape that the file does not have."""
    path = run / "predictions.npz"
    path.write_bytes(path.read_bytes().replace(b"(200, 10)", b"(999, 10)"))
    note(run)


def pickled(run: Path) -> None:
    np.savez(run / "predictions.npz", logits=np.array([{}]), labels=[0], indices=[0])
    note(run)


DAMAGE = {
    "empty object": (write_text("metrics.json", "{}"), "metrics.json: has no stage"),
    "list": (write_text("metrics.json", "[]"), "metrics.json: holds [], no metrics"),
    "number": (write_text("metrics.json", "5"), "metrics.json: holds 5, no metrics"),
    "deep": (write_text("metrics.json", "[" * 100_000), "metrics.json: cannot be read"),
    "no UTF-8": (write_text("metrics.json", b"\xff{}"), "metrics.json: cannot be read"),
    "half a character": (figure(study="\ud800"), "metrics.json: cannot be read"),
    "large": (write_text("metrics.json", " " * 2**21), "larger than 1 MiB"),
    "null": (figure(**{"test/acc": None}), "test/acc is null, not a number from 0 to 1"),
    "text": (figure(**{"val/acc": "high"}), 'val/acc is "high", not'),
    "above 1": (figure(**{"val/acc": 1.5}), "val/acc is 1.5, not"),
    "true": (figure(seed=True), "seed is true, not a whole number"),
    "nested": (figure(**{"optim/lr": [1]}), "optim/lr is [1], not a plain value"),
    "views": (figure(**{"data/augment/shift": "a"}), 'data/augment/shift is "a"'),
    "no fidelity": (figure(**{"fidelity/kl": None}), "fidelity/kl is null"),
    "no seed": (without("seed"), "metrics.json: has no seed"),
    "no teacher": (figure(**{"teacher/sha256": None}), "teacher/sha256 is null, not a text"),
    "no predictions": (lambda run: (run / "predictions.npz").unlink(), "predictions.npz: cannot"),
    "truncated": (truncated, "predictions.npz: cannot be used"),
    "altered": (altered, "its sha256 differs"),
    "no zip": (write_text("predictions.npz", "text"), "predictions.npz: cannot be used"),
    "bomb": (bomb, "logits.npy would unpack to 40,000,128 bytes"),
    "boast": (boast, "predictions.npz: cannot be used"),
    "pickled": (pickled, "logits holds pickled objects, which are never read"),
    "one array less": (arrays(indices=lambda part: None), "holds other arrays"),
    "other type": (arrays(labels=lambda part: part.astype(float)), "labels are float64"),
    "other length": (
        arrays(labels=lambda part: part[:-1]),
        "have the shapes (200, 10), (199,), (200,)",
    ),
    "not finite": (arrays(logits=lambda part: part / 0), "logits are not all finite"),
    "other classes": (arrays(labels=lambda part: part + 1), "labels are not all from 0 to 9"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_left_out_by_name(study, damage, reason):
    run = runs_of("distill", "T=4.0,alpha=0.5,seed=1*")[0]
    damage(run)
    found = load_study(Path("outputs/main"))
    ((name, said),) = found.refused.items()
    assert name == f"distill/{run.name}"
    assert reason in said
    assert len(found.runs) == 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_damage_everywhere_is_named_on_the_page_and_in_the_terminal(study, teacher):
    first, second, third, _ = runs_of("distill", "*alpha=0.5*")
    (first / "metrics.json").write_text("[]")
    truncated(second)
    figure(**{"test/ece": None})(third)
    (teacher / "model.ckpt").write_bytes(b"\0" * 99)
    history = teacher / "history.csv"
    history.write_bytes(bytes(reversed(history.read_bytes())))
    for run in runs_of("distill"):
        for file in (run / ".hydra").iterdir():
            file.write_text("a: [" * 2000)
    said = study("stage=report")
    assert said.code == 0, said.err
    page = sections(PAGE.read_text())
    assert "3 runs are left out" in page["verdict"]
    lines = [line for line in said.out.splitlines() if line.startswith("left out: ")]
    for run, reason in (
        (first, "holds []"),
        (second, "cannot be used"),
        (third, "test/ece is null"),
    ):
        assert run.name in page["left_out"]
        assert reason in page["left_out"]
        assert any(run.name in line and reason in line for line in lines)
    assert "the teacher has changed" in page["verdict"]
    assert said.out.splitlines()[-1] == f"report: {PAGE}"
    assert "Traceback" not in said.err + said.out


@pytest.mark.slow
def test_unreadable_parts_are_said_in_their_sections(study, teacher):
    """A student alone that has lost its network and its curves, digits without a configuration."""
    for run in runs_of("student"):
        (run / "model.ckpt").unlink()
        (run / "history.csv").unlink()
    for run in runs_of("distill"):
        (run / ".hydra" / "config.yaml").write_text("data: 5")
    assert study("stage=report").code == 0
    page = sections(PAGE.read_text())
    assert "The student alone is not readable" in page["cost"]
    assert "26,698" in page["cost"]
    assert "cannot be read from its history.csv" in page["curves"]
    assert "does not say where they are" in page["disagreements"]


def test_where_nothing_can_be_used_a_line_says_why(cli, teacher):
    (teacher / "metrics.json").write_text("{}")
    said = cli("stage=report")
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "metrics.json: has no stage" in said.err


@pytest.mark.slow
def test_runs_of_another_split_are_left_out_by_name(study, teacher):
    study("stage=teacher", *MINI, "data.seed=1", "seed=3")
    study("-m", "stage=student", *MINI, "data.seed=1", "seed=0,1,2")
    said = study("stage=report")
    assert said.code == 0, said.err
    assert "4 runs are left out" in said.out
    assert said.out.count("of another data split") == 4
    table = pd.read_csv(PAGE.parent / "runs.csv")
    assert not table["run"].str.contains("data.seed").any()
    assert sections(PAGE.read_text())["left_out"].count("of another data split") == 4


@pytest.mark.slow
def test_without_distilled_runs_the_split_is_that_of_the_students(cli, teacher):
    cli("stage=student", *MINI, "data.seed=1")
    found = load_study(Path("outputs/main"))
    assert list(found.refused) == [f"teacher/{teacher.name}"]
    assert found.teacher is None
    assert cli("stage=report").code == 0


@pytest.mark.slow
def test_seeds_without_a_student_alone_are_named_and_not_mixed_in(study):
    words = ("kd.T=1,4", "kd.alpha=0.5,1", "seed=2,3")
    study("-m", "stage=distill", *MINI, *words)
    said = study("stage=report")
    assert "run python train.py -m stage=student seed=2,3 data=mnist_mini trainer.max_" in said.out
    table = pd.read_csv(PAGE.parent / "accuracy.csv").set_index(["T", "alpha"])
    assert (table["seeds"] == 2).all()
    alone = [read_metrics(run)["test/acc"] for run in runs_of("student")]
    assert table["test_accuracy"].to_numpy() == pytest.approx(table["gain"] + np.mean(alone))
    command = re.search(r"run (python train.py -m stage=student .*?) \(", said.out)[1]
    assert study(*command.split()[2:]).code == 0
    assert "without a student alone" not in study("stage=report").out


def test_the_command_for_missing_controls_names_study_and_views(cli, teacher):
    views = ("data.augment.shift=2", "data.views=shift1")
    cli("stage=distill", *MINI, *views, "seed=1", "study=other", f"teacher.checkpoint={teacher}")
    (said,) = list_notes(load_study(Path("outputs/other")), Config(study="other"))
    expected = "seed=1 data=mnist_mini trainer.max_epochs=2"
    expected = f"{expected} {' '.join(views)} study=other"
    assert f"run python train.py -m stage=student {expected} (only" in said


def test_a_wrong_study_leaves_nothing_behind(cli, teacher):
    before = set(Path().rglob("*"))
    assert cli("stage=report", "study=nowhere").code == 1
    assert set(Path().rglob("*")) == before


@pytest.mark.slow
def test_two_reports_at_once_both_work(study):
    command = [sys.executable, str(PROJECT / "train.py"), "stage=report"]
    Path("outputs/main/.report.new").mkdir()  # of one that was killed
    Path("outputs/main/.report.new/stale").touch()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "ab"]
    for process in both:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert "stale" not in {path.name for path in PAGE.parent.iterdir()}
    assert len(list(PAGE.parent.glob("events.out.tfevents*"))) == 1
    assert not list(Path("outputs/main").glob(".report*"))


@pytest.mark.slow
def test_what_each_factor_accounts_for(cli, teacher):
    crossed = ("model.dropout=0,0.1", "optim=adam,keras", "kd.T=4", "kd.alpha=0", "seed=0,1")
    assert cli("-m", "stage=student,distill", *MINI, *crossed).code == 0
    said = cli("stage=report")
    assert said.code == 0, said.err
    rows = pd.read_csv(PAGE.parent / "factors.csv").set_index("part")
    assert [*rows.index] == ["lowest gain", "model.dropout", "optim", "remainder"]
    schedules = {"adam": "cosine", "keras": "constant"}
    (old, new), (first, last) = (
        [float(level) for level in rows.loc["model.dropout", ["from", "to"]]],
        [schedules[choice] for choice in rows.loc["optim", ["from", "to"]]],
    )
    accuracy = {
        (r["stage"], r["model/dropout"], r["optim/schedule"], r["seed"]): r["test/acc"]
        for r in map(read_metrics, [*runs_of("student"), *runs_of("distill")])
    }
    gains = {
        own: np.mean([accuracy["distill", *own, s] - accuracy["student", *own, s] for s in (0, 1)])
        for own in {(dropout, schedule) for _, dropout, schedule, _ in accuracy}
    }
    before, after = gains[old, first], gains[new, last]
    assert before == min(gains.values())
    assert rows.loc["lowest gain", "gain"] == pytest.approx(before)
    assert rows.loc["remainder", "gain"] == pytest.approx(after)
    of_dropout = (gains[new, first] - before + after - gains[old, last]) / 2
    assert rows.loc["model.dropout", "gain"] == pytest.approx(of_dropout)
    part = sections(PAGE.read_text())["factors"]
    assert "data:image/png;base64," in part
    assert "Shapley 1953" in part
    assert "what each factor accounts for at T = 4, alpha = 0 (2 seeds):" in said.out
    assert re.search(r"^  model.dropout: 0(\.1)? → 0(\.1)?  +[+-]\d", said.out, re.M)


@pytest.mark.slow
def test_names_cannot_become_markup(study):
    evil = "<b>|[x](http://evil)`y`\n# h"
    for run in runs_of("distill", "T=4*"):
        change(run, **{"kd/method": evil, "kd/direction": "$\\frac$ \x1b[31m"})
    said = study("stage=report")
    assert said.code == 0, said.err
    assert "\x1b" not in said.out
    text = (PAGE.parent / "report.md").read_text()
    assert "<b>" not in text
    assert "[x](" not in text
    assert "://evil" not in text
    assert "`" not in text.replace("\\`", "")
    assert not re.search(r"^# h", text, re.M)
    (row,) = [line for line in text.splitlines() if line.startswith("| &lt;b&gt;")]
    columns = re.split(r"(?<!\\)\|", next(x for x in text.splitlines() if x.startswith("| method")))
    assert len(re.split(r"(?<!\\)\|", row)) == len(columns)
    assert "<b>|" not in PAGE.read_text()


@pytest.mark.slow
def test_a_large_study_takes_little_memory_and_space(study):
    """110 cells × 5 seeds of made-up predictions: under 2 GB, a page under 1.5 MB."""
    random = np.random.default_rng(0)
    like = next(Path("outputs/main/distill").iterdir())
    control = next(Path("outputs/main/student").iterdir())
    labels = random.integers(0, 10, 10_000)
    suffix = like.name.split("seed=0")[-1].split("seed=1")[-1]

    def put(source: Path, name: str, **changes) -> None:
        target = Path("outputs/large", source.parent.name, name + suffix)
        target.mkdir(parents=True)
        logits = random.normal(size=(10_000, 10)).astype(np.float32)
        logits[np.arange(10_000), labels] += 4
        accuracy = float((logits.argmax(1) == labels).mean())
        np.savez(
            target / "predictions.npz", logits=logits, labels=labels, indices=np.arange(10_000)
        )
        shutil.copy(source / "model.ckpt", target)
        found = json.loads((source / "metrics.json").read_text())
        write_metrics(target, found | {"test/acc": accuracy, "val/acc": accuracy} | changes)
        note(target)

    for seed in range(5):
        put(control, f"seed={seed}", seed=seed)
        for T in range(1, 11):
            for step in range(11):
                alpha = step / 10
                name = f"T={T:.1f},alpha={alpha},seed={seed}"
                put(like, name, **{"seed": seed, "kd/T": float(T), "kd/alpha": alpha})
    command = [sys.executable, str(PROJECT / "train.py"), "stage=report", "study=large"]
    # By a small process in between: a child's peak begins with the memory of who starts it.
    measure = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    measured = [sys.executable, "-c", measure, *command]
    done = subprocess.run(measured, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2 * 2**20  # KiB
    page = Path("outputs/large/report/index.html")
    assert page.stat().st_size < 1.5 * 2**20
    assert len(pd.read_csv(page.parent / "runs.csv")) == 555


def test_the_verdict_says_what_hurts(cli, tmp_path):
    noise = (0.0, 0.001, -0.001, 0.0005, -0.0005)
    study = tmp_path / "outputs/main"
    for seed, off in enumerate(noise):
        make_up_run(study, "student", 0.95 + off, seed)
        for T, gain in ((1.0, 0.0), (4.0, -0.01), (10.0, -0.03)):
            accuracy = 0.95 + off + gain + noise[-1 - seed] / 10 * (1 + T)
            make_up_run(study, "distill", accuracy, seed, kd__T=T, kd__alpha=0.5)
    said = cli("stage=report")
    assert said.code == 0, said.err
    assert "Distillation hurts in 2 of 3 cells, significantly (Holm, 5 %)." in said.out
    assert "The largest loss is at T = 10, alpha = 0.5: −3.0" in said.out


def test_one_seed_has_neither_intervals_nor_tests(cli, tmp_path):
    study = tmp_path / "outputs/main"
    make_up_run(study, "student", 0.95)
    for T in (1.0, 10.0):
        for alpha in (0.0, 1.0):
            make_up_run(study, "distill", 0.95 - T / 1000, kd__T=T, kd__alpha=alpha)
            own = {"kd__T": T, "kd__alpha": alpha, "kd__method": "dkd"}
            make_up_run(study, "distill", 0.94 - T / 1000, **own)
    assert cli("stage=report").code == 0
    for name in ("accuracy.csv", "methods.csv"):
        table = pd.read_csv(PAGE.parent / name)
        assert not {"low", "high", "gain_low", "gain_high", "p", "p_holm"} & {*table}
        assert "gain" in table
    text = (PAGE.parent / "report.md").read_text()
    assert not re.search(r"\b(inf|nan)\b|significant|brackets|95 % interval", text)
