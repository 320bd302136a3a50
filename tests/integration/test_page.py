"""The page of a report in a real browser: numbers, keyboard, address, slider, narrow and dark."""

import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import MINI, make_up_run, make_up_sweep, metrics, runs

import train

browser_of = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed"),
]
PAGE = Path("outputs/main/report/index.html")
SWEEP = ("kd.T=1,4,10", "kd.alpha=0,0.5,1", "seed=0,1")
ERRORS = 0.02  # in probability, of logits in 256 steps


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """The folder of a study of two seeds with its report."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        commands = (
            ("stage=teacher", *MINI),
            ("-m", "stage=student,distill", *MINI, *SWEEP),
            ("stage=report",),
        )
        for words in commands:
            patch.setattr(sys, "argv", ["train.py", *words])
            train.main()
    return folder


@pytest.fixture(scope="module")
def chromium():
    with browser_of.sync_playwright() as playwright:
        # In a container the browser's own sandbox cannot start.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that was opened, and what went wrong on it."""

    def __init__(self, chromium, page: Path, address: str = "", **settings):
        self.context = chromium.new_context(**settings)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self.note_request)
        self.page.goto(page.resolve().as_uri() + address)
        if settings.get("java_script_enabled", True):
            self.page.wait_for_selector("body[data-ready]")

    def note_request(self, request) -> None:
        """Only the page itself may be asked for."""
        if not request.url.startswith("data:") and not request.url.split("#")[0].endswith(".html"):
            self.wrong.append(request.url)

    def figures(self) -> dict[str, str]:
        """What the panel says of the chosen cell."""
        script = "all => Object.fromEntries(all.map(e => [e.dataset.name, e.textContent]))"
        return self.page.eval_on_selector_all("#cell dd", script)

    def cell(self) -> str:
        return self.page.inner_text("#cell h3")


@pytest.fixture
def visit(chromium, studied, monkeypatch):
    """Open the page; at the end nothing must have gone wrong."""
    monkeypatch.chdir(studied)
    made: list[Visit] = []

    def open_page(address: str = "", page: Path = PAGE, **settings) -> Visit:
        made.append(Visit(chromium, page, address, **settings))
        return made[-1]

    yield open_page
    for each in made:
        each.context.close()
        assert each.wrong == []


def results() -> pd.DataFrame:
    return pd.read_csv("outputs/main/results.csv")


def test_every_cell_is_reached_by_keyboard_and_shows_the_numbers_of_the_results(visit):
    opened = visit()
    page, table, seen = opened.page, results(), set()
    alone = table[table["stage"] == "student"].set_index("seed")["test/acc"]
    page.focus("#map td[tabindex='0']")
    keys = ["ArrowUp", "ArrowUp", "ArrowLeft"]  # to the first cell
    keys += ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowDown", "ArrowRight"]
    for key in keys:
        page.keyboard.press(key)
        T, alpha = map(float, re.findall(r"[\d.]+", opened.cell()))
        own = table[(table["kd/T"] == T) & (table["kd/alpha"] == alpha)].set_index("seed")
        shown = opened.figures()
        assert shown["test accuracy"] == f"{100 * own['test/acc'].mean():.2f} %"
        points = float(shown["gain"].split()[0].replace("−", "-"))
        assert points == pytest.approx(100 * (own["test/acc"] - alone).mean(), abs=0.006)
        same = 100 * own["fidelity/agreement"].mean()
        assert shown["agreement with the teacher"] == f"{same:.2f} %"
        assert shown["KL to the teacher"] == f"{own['fidelity/kl'].mean():.4f} nats"
        seen.add((T, alpha))
    assert len(seen) == 6
    assert page.url.endswith("#T=10,alpha=0.5")


def test_a_seed_shows_the_figures_of_its_run(visit):
    opened = visit("#T=10,alpha=0.5")
    assert opened.cell() == "T = 10, alpha = 0.5"
    opened.page.select_option("#seed", "1")
    (run,) = [path for name, path in runs("main").items() if "T=10.0,alpha=0.5,seed=1" in name]
    found = metrics(run)
    assert opened.figures()["test accuracy"] == f"{100 * found['test/acc']:.2f} %"
    per_class = pd.read_csv(PAGE.parent / "per_class.csv")
    own = per_class[per_class["run"] == f"distill/{run.name}"].set_index("class")["f1-score"]
    rows = opened.page.eval_on_selector_all(
        "#f1 tbody tr", "all => all.map(r => [...r.cells].map(c => c.textContent))"
    )
    assert len(rows) == 10
    for name, value, *_ in rows:
        assert float(value) == pytest.approx(own[name], abs=6e-5)


def test_the_address_names_one_cell_or_two(visit):
    opened = visit("#T=4,alpha=0")
    opened.page.click("#map [data-cell]:has-text('0') >> nth=-1", modifiers=["Shift"])
    assert opened.cell() == "T = 4, alpha = 0 and T = 10, alpha = 0.5"
    assert opened.page.url.endswith("#T=4,alpha=0,with=10:0.5")
    again = visit(opened.page.url.split("html")[1])
    assert again.cell() == opened.cell()
    assert visit("#T=77,alpha=0").cell()  # of no cell: the usual one


def test_the_slider_recomputes_the_softmax(visit, studied):
    page = visit().page
    data = json.loads(page.text_content("#data"))
    page.click(".tile >> nth=0")
    tops = []
    for T in (1, 20):
        page.eval_on_selector(
            "#temperature",
            f"e => {{ e.value = {T}; e.dispatchEvent(new Event('input')); }}",
        )
        assert page.inner_text("#at") == str(T)
        label = page.get_attribute("#bars svg >> nth=0", "aria-label")
        assert label.startswith(f"teacher at T = {T}: ")
        tops.append(float(re.search(r"([\d.]+) %", label)[1]))
        shares = page.eval_on_selector_all(
            "#bars div:first-child rect title", "all => all.map(e => e.textContent)"
        )
        shares = [float(share.split(": ")[1].split()[0]) for share in shares]
        assert sum(shares) == pytest.approx(100, abs=0.1)
        place = page.eval_on_selector(".tile[aria-pressed='true']", "e => +e.dataset.image")
        wanted = true_shares(studied, data, place, T)
        assert shares == pytest.approx(wanted, abs=100 * ERRORS)
    assert tops[0] > tops[1]


def true_shares(folder: Path, data: dict, place: int, T: float) -> list[float]:
    """The teacher's softmax in %, from its own predictions."""
    from kd.report.study import load_study

    study = load_study(folder / "outputs/main")
    chosen = study.verdict.chosen
    networks = [study.teacher, chosen.method.controls[0], chosen.runs[0]]
    assert data["digits"]["names"] == [run.name for run in networks]
    labels = networks[0].predictions.labels
    wrong = sum((run.predictions.classes != labels) for run in networks).nonzero().flatten()
    logits = networks[0].predictions.logits[wrong[place]].double()
    return (100 * (logits / T).softmax(0)).tolist()


def test_a_confusion_filters_the_images(visit):
    page = visit().page
    button = page.query_selector("#cell .map.small button")
    words = button.get_attribute("aria-label")
    button.click()
    i, j = re.match(r"(\d) taken for (\d)", words).groups()
    assert f"{i} taken for {j}" in page.inner_text("#groups")
    labels = page.eval_on_selector_all(".tile", "all => all.map(e => e.title)")
    assert all(title.startswith(f"is {i};") for title in labels)


def test_runs_are_sorted_by_a_click(visit):
    page = visit().page
    page.click("#runs th:nth-child(2) button")
    script = "all => all.map(r => parseFloat(r.cells[1].textContent))"
    up = page.eval_on_selector_all("#runs tbody tr", script)
    page.click("#runs th:nth-child(2) button")
    down = page.eval_on_selector_all("#runs tbody tr", script)
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert page.get_attribute("#runs th:nth-child(2)", "aria-sort") == "descending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(visit, scheme):
    narrow = {"width": 360, "height": 740}
    page = visit(viewport=narrow, color_scheme=scheme, has_touch=True).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.tap("#map [data-cell] >> nth=3")
    page.check("#compare")
    page.tap("#map [data-cell] >> nth=2")
    assert " and " in page.inner_text("#cell h3")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_serious_barrier(visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(color_scheme=scheme).page
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (each["id"], [node["html"][:120] for node in each["nodes"]][:3])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_without_script_it_has_its_drawings(visit):
    page = visit(java_script_enabled=False).page
    drawn = page.query_selector_all("svg, table.map, img")
    assert len([each for each in drawn if each.is_visible()]) >= 6
    assert not page.query_selector("#explore").is_visible()


def test_a_print_has_every_section(visit, tmp_path):
    opened = visit()
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.pdf(path=tmp_path / "page.pdf", format="A4")[:4] == b"%PDF"
    for part in opened.page.query_selector_all("section"):
        assert part.is_visible()
    cut = opened.page.eval_on_selector_all(
        "table", "all => all.filter(t => t.getBoundingClientRect().width === 0).length"
    )
    assert cut == 0


def test_a_large_study_keeps_a_matrix_per_cell(visit, monkeypatch):
    """Above ``MOST_RUNS`` runs, a cell's confusion is the same without its predictions."""
    address, rows = "#T=10,alpha=0.5", "all => all.map(r => r.textContent)"
    whole = visit(address).page.eval_on_selector_all("#cell tbody tr", rows)
    monkeypatch.setattr("kd.report.embedded.MOST_RUNS", 3)
    shutil.copytree("outputs/main", "outputs/large", dirs_exist_ok=True)
    monkeypatch.setattr(sys, "argv", ["train.py", "stage=report", "study=large"])
    train.main()
    opened = visit(address, Path("outputs/large/report/index.html"))
    assert opened.page.eval_on_selector_all("#cell tbody tr", rows) == whole
    data = json.loads(opened.page.text_content("#data"))
    assert len(data["answered"]) == 5  # of the teacher, and of two students alone and distilled
    opened.page.select_option("#seed", "1")
    assert opened.figures()["seeds"] == "seed 1"


# Of sweeps, by their temperatures, alphas, seeds and test images: bytes of the page.
BUDGETS = {(4, 5, 1, 10_000): 0.6e6, (11, 10, 5, 10_000): 1.5e6, (20, 25, 10, 1000): 5e6}


@pytest.mark.parametrize("grid", BUDGETS)
def test_a_page_stays_within_its_budget(visit, tmp_path, monkeypatch, grid):
    """Of sweeps of 22, 556 and 5,011 runs, in figures that are those of results.csv."""
    make_up_sweep(tmp_path / "large", *grid)
    words = ["train.py", "stage=report", "study=large", f"output_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", words)
    train.main()
    page = tmp_path / "large/report/index.html"
    assert page.stat().st_size < BUDGETS[grid]
    opened = visit("#T=3,alpha=0.4", page)
    table = pd.read_csv(tmp_path / "large/results.csv")
    own = table[(table["kd/T"] == 3) & (table["kd/alpha"] == 0.4)]
    assert len(own) == grid[2]
    assert opened.cell() == "T = 3, alpha = 0.4"
    assert opened.figures()["test accuracy"] == f"{100 * own['test/acc'].mean():.2f} %"
    assert len(opened.page.query_selector_all("#map [data-cell]")) == grid[0] * grid[1]
    assert len(opened.page.query_selector_all("#f1 tbody tr")) == 10
    assert len(opened.page.query_selector_all("#runs tbody tr")) == len(table)


def made_up(study: Path, stages: str, seeds: int = 1) -> None:
    for seed in range(seeds):
        for stage in stages.split():
            settings = {"kd__T": 2.0, "kd__alpha": 0.0} if stage == "distill" else {}
            if seed == 0 or stage != "teacher":
                make_up_run(study, stage, 0.95 + seed / 1000, seed, **settings)


@pytest.mark.parametrize(
    ("stages", "seeds", "said"),
    [
        ("teacher", 1, "No distilled student yet"),
        ("student", 1, "No distilled student yet"),
        ("distill", 1, "Distillation here: cannot tell"),
        ("distill", 3, "Distillation here: cannot tell"),
        ("student distill", 1, "Distillation here: cannot tell"),
        ("teacher student distill", 2, "Distillation here: cannot tell"),
    ],
)
def test_a_poor_study_has_a_page(visit, tmp_path, monkeypatch, stages, seeds, said):
    made_up(tmp_path / "poor", stages, seeds)
    words = ["train.py", "stage=report", "study=poor", f"output_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", words)
    train.main()
    page = visit(page=tmp_path / "poor/report/index.html").page
    assert page.inner_text("#verdict h2") == said
    assert page.query_selector("#explore").is_visible() == ("distill" in stages)
    text = page.inner_text("body")
    assert not re.search(r"\b(inf|nan|NaN|undefined|null|None)\b", text)
    if seeds == 1:
        assert "not significant" not in page.inner_text("#verdict")
        assert "not significant" not in page.text_content("#reference")
        assert page.query_selector(".whisker") is None
    for name in page.eval_on_selector_all("svg *", "all => all.map(e => e.outerHTML)"):
        assert "NaN" not in name
