"""The report: whole on a real small study, and in words where a study lacks something."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import MINI

from kd.config import PROJECT
from kd.folder import write_metrics

PAGE = Path("outputs/main/report/index.html")
PARTS = {"accuracy", "gain", "agreement", "kl", "curves", "confusion", "calibration", "digits"}
TABLES = {"accuracy", "curves", "classes", "cost", "runs", "settings", "per_class", "confusion"}


def sections(page: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.S))


@pytest.fixture
def study(cli, teacher):
    """A teacher, two students and a 2 × 2 grid of two seeds on the small digits."""
    cli("-m", "stage=student", *MINI, "seed=0,1")
    cli("-m", "stage=distill", *MINI, "kd.T=1,4", "kd.alpha=0.5,1", "seed=0,1")
    return cli


def test_the_report_is_whole(study):
    said = study("stage=report")
    assert said.code == 0, said.err
    assert said.out.strip().splitlines()[-1] == f"report: {PAGE}"
    page = PAGE.read_text()
    parts = sections(page)
    assert next(iter(parts)) == "verdict"
    assert re.search(r"Distillation here: (works|does not work|cannot tell)\.", parts["verdict"])
    assert "Validation chooses T = " in parts["verdict"]
    for slug in PARTS:
        assert (PAGE.parent / f"{slug}.png").read_bytes().startswith(b"\x89PNG")
        (image,) = re.findall(r"<img [^>]*>", parts[slug])
        assert "data:image/png;base64," in image
        assert re.search(r'alt="[^"]{10,}"', image)
    for slug in TABLES:
        assert len(pd.read_csv(PAGE.parent / f"{slug}.csv")) > 0
    assert "95 % of the teacher" in parts["cost"]
    assert "1/12.1 of its multiplications" in parts["cost"]
    outside = re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert not outside, "the page needs nothing but itself"
    assert "## Verdict" in (PAGE.parent / "report.md").read_text()
    assert list(PAGE.parent.glob("events.out.tfevents*"))


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


def test_a_report_can_be_made_again(study):
    study("stage=report")
    (PAGE.parent / "stale.png").touch()
    assert study("stage=report").code == 0
    assert not (PAGE.parent / "stale.png").exists()
    assert len(list(PAGE.parent.glob("events.out.tfevents*"))) == 1


def test_other_settings_are_listed_but_not_compared(study):
    study("stage=distill", *MINI, "optim.lr=0.1")
    study("stage=report")
    page = PAGE.read_text()
    assert "1 distilled runs with other settings are listed, not compared" in page
    assert "optim.lr=0.1" in sections(page)["runs"]


def method_rows() -> pd.DataFrame:
    return pd.read_csv(PAGE.parent / "methods.csv").set_index("method")


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


def test_students_of_another_teacher_are_scored_against_the_first_too(cli, teacher):
    cli("stage=teacher", *MINI, "seed=1")
    cli("-m", "stage=student", *MINI, "seed=0,1")
    cli("-m", "stage=distill", *MINI, "teacher.seed=0,1", "seed=0,1")
    assert cli("stage=report").code == 0
    rows = method_rows()
    folders = [f"{teacher.parent.relative_to(Path.cwd())}/seed={seed}" for seed in (0, 1)]
    first, second = (
        rows.loc[f"hinton, taught by {folder},data=mnist_mini,trainer.max_epochs=2"]
        for folder in folders
    )
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
    assert "Needs a teacher and a student" in parts["digits"]


def test_a_student_alone_is_reported(cli):
    cli("stage=student", *MINI)
    assert cli("stage=report").code == 0
    assert "no teacher" in sections(PAGE.read_text())["runs"]


def test_one_cell_of_one_seed_without_a_control_is_reported(cli, teacher):
    cli("stage=distill", *MINI)
    assert cli("stage=report").code == 0
    parts = sections(PAGE.read_text())
    assert "has a student alone of its seed: run python" in parts["verdict"]
    assert "run python train.py stage=student" in parts["gain"]


def test_one_seed_says_what_it_cannot_tell(cli, teacher):
    cli("stage=student", *MINI)
    cli("stage=distill", *MINI)
    assert cli("stage=report").code == 0
    verdict = sections(PAGE.read_text())["verdict"]
    assert "one seed cannot tell" in verdict
    assert "McNemar p = " in verdict
    assert "bootstrap interval over test images" in verdict


def test_runs_that_failed_are_named(study):
    path = next(Path("outputs/main/distill").glob("T=4.0,alpha=0.5,seed=1*"))
    (path / "metrics.json").unlink()
    assert study("stage=report").code == 0
    assert f"1 runs are not complete: distill/{path.name}" in sections(PAGE.read_text())["verdict"]


def test_a_study_without_its_teacher_is_reported(study, teacher):
    shutil.rmtree(teacher)
    assert study("stage=report").code == 0
    assert "no teacher" in sections(PAGE.read_text())["runs"]


@pytest.mark.parametrize(
    ("folder", "said"),
    [("nowhere", "The images are not at hand"), ("swapped", "are not those of the runs")],
)
def test_images_are_those_of_the_runs_or_none(study, folder, said):
    shutil.copytree(PROJECT / "tests/mnist_mini", "swapped")
    for path in Path("swapped/MNIST/raw").glob("*labels*"):
        content = path.read_bytes()
        path.write_bytes(content[:8] + bytes(reversed(content[8:])))
    for path in Path("outputs/main/distill").glob("*/.hydra/config.yaml"):
        text = path.read_text()
        path.write_text(text.replace(str(PROJECT / "tests/mnist_mini"), folder))
    assert study("stage=report").code == 0
    assert said in sections(PAGE.read_text())["digits"]


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


def test_the_talks_study_is_put_beside_the_talk(study):
    Path("outputs/main").rename("outputs/talk")
    assert study("stage=report", "study=talk").code == 0
    part = sections(Path("outputs/talk/report/index.html").read_text())["talk"]
    for point in ("98.4 %", "95.7 to 96.8 %", "along T = 1", "9 and 4, 5 and 3, 6 and 5"):
        assert point in part


@pytest.mark.slow
def test_a_large_study_is_reported_in_time_and_size(study):
    """110 cells × 5 seeds of made-up predictions: under 60 s and 2 GB, a page under 5 MB."""
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

    for seed in range(5):
        put(control, f"seed={seed}", seed=seed)
        for T in range(1, 11):
            for step in range(11):
                alpha = step / 10
                name = f"T={T:.1f},alpha={alpha},seed={seed}"
                put(like, name, **{"seed": seed, "kd/T": float(T), "kd/alpha": alpha})
    started = time.perf_counter()
    command = [sys.executable, str(PROJECT / "train.py"), "stage=report", "study=large"]
    # By a small process in between: a child's peak begins with the memory of who starts it.
    measure = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    measured = [sys.executable, "-c", measure, *command]
    done = subprocess.run(measured, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 60
    assert int(done.stdout.split()[-1]) < 2 * 2**20  # KiB
    page = Path("outputs/large/report/index.html")
    assert page.stat().st_size < 5 * 2**20
    assert len(pd.read_csv(page.parent / "runs.csv")) == 555


@pytest.mark.slow
def test_a_browser_draws_the_page_without_errors(study):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed")
    study("stage=report")
    probe = PAGE.with_name("probe.html")
    script = (
        "<script>window.onload=()=>{const all=[...document.images];"
        "const drawn=all.filter(i=>i.naturalWidth>200);"
        "document.title='drawn '+drawn.length+' of '+all.length}</script>"
    )
    probe.write_text(PAGE.read_text().replace("</head>", script + "</head>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [browser, *flags, f"--user-data-dir={Path('profile').resolve()}", probe.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"<title>drawn {len(PARTS)} of {len(PARTS)}</title>" in done.stdout
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
