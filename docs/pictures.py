"""Takes the pictures of docs/lesson.md, and TensorBoard's: python docs/pictures.py [outputs].

Needs chromium, the study of the lesson and, as study main, the README's sweep over five seeds.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent
SLIDE = "(slider, T) => { slider.value = T; slider.dispatchEvent(new Event('input')); }"
SETTINGS = '{"sideBarWidthInPercent": 28, "timeSeriesSettingsPaneOpened": false}'
CURVES = (  # of the students of T = 2 and T = 10 at alpha = 0, coloured by T
    "http://localhost:6017/?runFilter=T%3D(2%7C10).*alpha%3D0.0"
    "&runColorGroup=regex%3AT%3D(%5Cd%2B)&tagFilter=val&smoothing=0#timeseries"
)


def take_report(page: Page, report: Path) -> None:
    """The map with the cell of T = 10, and a 4 that looks like a 9 at T = 4."""
    page.set_viewport_size({"width": 1000, "height": 1000})
    page.goto(f"{report.resolve().as_uri()}#T=10,alpha=0")
    area = page.locator("#explore .split").bounding_box() or {}
    page.screenshot(path=DOCS / "lesson/map.png", full_page=True, clip={**area, "height": 655})
    page.locator(".tile").nth(24).click()
    page.locator("#temperature").evaluate(SLIDE, 4)
    page.locator("#digits > .split").screenshot(path=DOCS / "lesson/digit.png")


def take_curves(page: Page) -> None:
    """What TensorBoard opens on, its filters set by the address."""
    page.set_viewport_size({"width": 1200, "height": 670})
    page.add_init_script(f"localStorage.setItem('_tb_global_settings', '{SETTINGS}')")
    page.goto(CURVES)
    page.wait_for_timeout(10_000)  # curves are drawn long after the page is loaded
    page.screenshot(path=DOCS / "tensorboard.png")


if __name__ == "__main__":
    outputs = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
    server = subprocess.Popen(["tensorboard", "--logdir", outputs / "main", "--port", "6017"])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        take_report(browser.new_page(), outputs / "lesson/report/index.html")
        take_curves(browser.new_page())
    server.terminate()
