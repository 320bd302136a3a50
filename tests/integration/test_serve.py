"""The example that serves an exported student, in a real browser."""

import http.client
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import MINI

import train
from kd.files import PROJECT

browser_of = pytest.importorskip("playwright.sync_api")
onnxruntime = pytest.importorskip("onnxruntime")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.slow
SERVE = PROJECT / "examples" / "serve.py"


@pytest.fixture(scope="module")
def exported(_trained, tmp_path_factory) -> Path:
    """The folder of an exported student with its teacher."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(_trained, folder / "outputs")
    commands = (
        ("-m", "stage=student,distill", *MINI, "kd.T=2", "kd.alpha=0.5", "seed=0"),
        ("stage=export", "export.passes=10", "export.tolerance=1"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands:
            patch.setattr(sys, "argv", ["train.py", *words])
            train.main()
    (found,) = (folder / "outputs/main/export").iterdir()
    return found


@pytest.fixture(scope="module")
def address(exported):
    """Where it serves, by a port that the system chooses."""
    with subprocess.Popen(
        [sys.executable, SERVE, exported, "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        yield server.stdout.readline().decode().strip()
        server.kill()


def post(address: str, length: str | None, body: bytes = b"") -> int:
    """The status of an answer to so many bytes."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/answer")
    if length is not None:
        connection.putheader("Content-Length", length)
    connection.endheaders(body)
    return connection.getresponse().status


def test_it_is_short():
    assert len(SERVE.read_text().splitlines()) < 60


def test_it_takes_one_image_and_nothing_larger(address):
    assert address.startswith("http://127.0.0.1:")
    assert post(address, "784", bytes(784)) == 200
    for length in ("785", "783", "999999999999", "-1", "x", None):
        assert post(address, length) == 413
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    connection.request("GET", "/../serve.py")
    assert connection.getresponse().status == 404


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
def test_a_drawn_digit_is_answered_by_all_at_any_temperature(address, exported):
    with browser_of.sync_playwright() as playwright:
        # In a container the browser's own sandbox cannot start.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, wrong, sent = browser.new_page(), [], []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda request: sent.append(request))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        assert page.locator("figure").count() == 0
        box = page.locator("#pad").bounding_box()
        page.mouse.move(box["x"] + 140, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 145, box["y"] + 220, steps=8)
        page.mouse.up()
        page.wait_for_load_state("networkidle")
        for T in (1.0, 4.5):
            page.fill("#T", str(T))
            check_answers(page, sent[-1].post_data_buffer, T, exported)
        page.click("#clear")
        assert page.locator("figure").count() == 0
        assert wrong == []
        browser.close()


def check_answers(page, body: bytes, T: float, exported: Path) -> None:
    """The page shows the softmax, at this T, of each network's logits for the image it sent."""
    images = np.frombuffer(body, np.uint8).reshape(1, 1, 28, 28) / np.float32(255)
    assert images.max() > 0.5
    files = {"teacher": "teacher.onnx", "student": "student.onnx", "int8": "student.int8.onnx"}
    for name, file in files.items():
        logits = onnxruntime.InferenceSession(exported / file).run(None, {"images": images})[0][0]
        powers = np.exp((logits - logits.max()) / T)
        shown = page.locator(f"figure[data-network={name}] .row span:last-child").all_inner_texts()
        shares = [float(text.removesuffix(" %")) for text in shown]
        np.testing.assert_allclose(shares, 100 * powers / powers.sum(), atol=0.06)
