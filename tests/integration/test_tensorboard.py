"""The real TensorBoard on a sweep's outputs, asked over HTTP as its own page asks it."""

import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest
from helpers import MINI


@pytest.fixture
def board(cli, teacher) -> Iterator[str]:
    """TensorBoard serving a small study; its address."""
    assert cli("stage=student", *MINI).code == 0
    assert cli("-m", "stage=distill", *MINI, "kd.T=1,4", "kd.alpha=0,0.5").code == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--logdir", "outputs", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def ask(address: str, path: str, body: dict | None = None) -> object:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def wait_for(question, enough) -> object:
    """Ask until the answer is enough: the server starts, then reads the files, in its own time."""
    while True:
        try:
            answer = question()
        except OSError:
            answer = None
        if answer is not None and enough(answer):
            return answer
        time.sleep(0.2)


def test_tensorboard_shows_runs_scalars_and_hyperparameters(board):
    runs = wait_for(lambda: ask(board, "/data/runs"), lambda found: len(found) == 6)
    cell = next(run for run in runs if "T=4.0,alpha=0.5,seed=0" in run)
    tags = wait_for(
        lambda: ask(board, "/data/plugin/scalars/tags"),
        lambda found: (
            len(found) == 6 and all("when_trained/test/acc" in tags for tags in found.values())
        ),
    )
    for run in runs:
        assert {"train/loss", "train/acc", "val/loss", "val/acc", "train/lr"} <= set(tags[run])
    assert "when_trained/fidelity/agreement" in tags[cell]
    query = urllib.parse.urlencode({"run": cell, "tag": "val/acc"})
    points = ask(board, f"/data/plugin/scalars/scalars?{query}")
    assert [step for _, step, _ in points] == [1, 2], "one point an epoch, counted from 1"
    assert all(0 < value <= 1 for _, _, value in points)

    experiment = wait_for(
        lambda: ask(board, "/data/plugin/hparams/experiment", {"experimentName": ""}),
        lambda found: len(found.get("hparamInfos", [])) > 5,
    )
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"kd/T", "kd/alpha", "seed", "stage"} <= names
    groups = ask(
        board,
        "/data/plugin/hparams/session_groups",
        {
            "experimentName": "",
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"],
            "colParams": [],
            "startIndex": 0,
            "sliceSize": 100,
        },
    )["sessionGroups"]
    assert len(groups) == 6
    cells = {
        (group["hparams"]["kd/T"], group["hparams"]["kd/alpha"])
        for group in groups
        if group["hparams"]["stage"] == "distill"
    }
    assert cells == {(T, alpha) for T in (1.0, 4.0) for alpha in (0.0, 0.5)}
    for group in groups:
        figures = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert 0 < figures["when_trained/test/acc"] <= 1
        assert "seed" in group["hparams"]
