"""An exported network: every file answers as the network does, and a refusal leaves nothing."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DIGITS, MINI, complete, metrics, one_line, tree

import kd
import train
from kd.config.schema import Data
from kd.data.pool import load_pool
from kd.errors import UserError
from kd.export import build, int8, load_student, pack
from kd.files import PROJECT

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

# Of so few test images int8 may lose one or two.
EXPORT = ("stage=export", "export.passes=10", "export.calibration=100", "export.tolerance=0.02")
FILES = {
    *("student.onnx", "student.int8.onnx", "student.safetensors", "config.json", "student.pt2"),
    *("teacher.onnx", "MODEL_CARD.md", "compression.json"),
}
CUSTOM = ["model=custom", "model.target=mine.Small", "model.hidden_layer=body"]
BATCH_NORM = pytest.mark.skipif(
    torch.__version__.startswith("2.6"), reason="torch 2.6 cannot export batch norm as ONNX"
)
NETS = '''
import torch
from torch import nn


class Small(nn.Module):
    """Batch norm, and a dropout of torch's own."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Dropout(0.1),
        )
        self.head = nn.Linear(676, num_classes)

    def forward(self, images):
        return self.head(self.body(images))


class Looks(Small):
    """Decides by the images' values, which no graph can."""

    def forward(self, images):
        return super().forward(images) * (2.0 if images.sum() > 0 else 1.0)
'''


def run_in(folder: Path, *commands: tuple[str, ...]) -> None:
    """Run commands in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands:
            patch.setattr(sys, "argv", ["train.py", *words])
            train.main()


@pytest.fixture(scope="module")
def _exported(_trained, tmp_path_factory) -> Path:
    """The outputs of a small study, whose best student is exported, and its report; made once."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(_trained, folder / "outputs")
    sweep = ("-m", "stage=student,distill", *MINI, "kd.T=2", "kd.alpha=0.5", "seed=0,1")
    run_in(folder, sweep, EXPORT, ("stage=report",))
    return folder / "outputs"


@pytest.fixture
def outputs(cli, _exported, tmp_path) -> Path:
    """A copy of them in this test's own folder."""
    shutil.copytree(_exported, tmp_path / "outputs")
    return tmp_path / "outputs"


def only(study: str = "main") -> Path:
    """The folder of a study's only export."""
    (found,) = Path("outputs", study, "export").iterdir()
    return found


def without_locks() -> dict[str, bytes]:
    """Every file of the outputs with its bytes, but for the locks."""
    return {name: found for name, found in tree(Path("outputs")).items() if ".locks" not in name}


def recorded(run: Path) -> tuple[torch.Tensor, np.ndarray]:
    """The test images of a run on the small digits, and the logits that it recorded of them."""
    found = np.load(run / "predictions.npz")
    pool = load_pool(Data(dir=str(DIGITS), source="folder"), torch.device("cpu"))
    return pool.take(torch.from_numpy(found["indices"]))[0], found["logits"]


def ask(path: Path, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images.numpy()})[0]


def test_the_best_seed_of_the_chosen_cell_is_exported(outputs):
    assert {path.name for path in only().iterdir()} == FILES
    best = max(complete(stage="distill"), key=lambda run: metrics(run)["val/acc"])
    assert only().name == f"distill-{best.name}"


def test_every_file_answers_as_the_run_did(outputs):
    folder = only()
    (run,) = Path("outputs/main/distill").glob(folder.name.removeprefix("distill-"))
    images, logits = recorded(run)
    for size in (1, 7, len(images)):
        found = ask(folder / "student.onnx", images[:size])
        np.testing.assert_allclose(found, logits[:size], atol=1e-4)
    with torch.no_grad():
        plain = load_student(folder)(images)
        traced = torch.export.load(folder / "student.pt2").module()(images)
    for found in (plain, traced):
        np.testing.assert_allclose(found, logits, atol=1e-4)
    small = ask(folder / "student.int8.onnx", images)
    right = np.load(run / "predictions.npz")["labels"]
    change = np.mean(small.argmax(1) == right) - np.mean(logits.argmax(1) == right)
    told = json.loads((folder / "compression.json").read_text())["int8"]
    assert told["change"] == pytest.approx(change)
    assert change >= -0.02
    (taught,) = (metrics(run)["test/acc"] for run in complete(stage="teacher"))
    answers = ask(folder / "teacher.onnx", images).argmax(1)
    assert np.mean(answers == right) == pytest.approx(taught)


def test_the_onnx_file_says_what_it_is_and_not_where_it_was_made(outputs, tmp_path):
    model = onnx.load(only() / "student.onnx")
    known = {entry.key: entry.value for entry in model.metadata_props}
    assert (known["T"], known["alpha"], known["method"]) == ("2.0", "0.5", "hinton")
    assert json.loads(known["class_names"]) == [*"0123456789"]
    (run,) = Path("outputs/main/distill").glob(only().name.removeprefix("distill-"))
    assert float(known["test_acc"]) == pytest.approx(metrics(run)["test/acc"])
    assert known["data_fingerprint"] == metrics(run)["data/fingerprint"]
    (given,), (batch, *_) = model.graph.input, model.graph.input[0].type.tensor_type.shape.dim
    assert (given.name, batch.dim_param) == ("images", "batch")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    for path in only().iterdir():
        content = path.read_bytes()
        assert str(PROJECT).encode() not in content, path
        assert str(tmp_path).encode() not in content, path


def test_the_card_says_how_to_run_it_and_that_runs(outputs):
    card = (only() / "MODEL_CARD.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len([line for line in code.splitlines() if line]) == 6
    done = subprocess.run([sys.executable, "-c", code], cwd=only(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\[\d\] \[", done.stdout)
    (run,) = Path("outputs/main/distill").glob(only().name.removeprefix("distill-"))
    assert f"{100 * metrics(run)['test/acc']:.2f} % of 200 test images" in card
    assert "It is one of 2 seeds of its setting" in card
    assert "by hinton at temperature T = 2.0 and alpha = 0.5" in card
    assert "McNemar p = " in card
    assert len(re.findall(r"^\| \d \|", card, re.M)) == 10
    assert re.search(r"compressed: multiplications \(1[0-9]\.\d times fewer\)", card)
    for name in FILES - {"MODEL_CARD.md"}:
        assert f"| `{name}` |" in card


def test_the_report_shows_what_is_compressed(outputs, cli):
    page = Path("outputs/main/report/index.html").read_text()
    for slug in ("compression", "latency", "pareto"):
        assert f'<section id="{slug}">' in page
    networks = ["teacher", "student alone", "distilled", "distilled, int8"]
    told = json.loads((only() / "compression.json").read_text())
    assert [row["network"] for row in told["networks"]] == networks
    for row in told["networks"]:
        assert row["bytes"] > 0
        assert row["low"] < row["test_accuracy"] < row["high"]
    timed = {(row["network"], row["engine"], row["batch"]) for row in told["latency"]}
    assert len(timed) == (2 * len(networks) - 1) * 3
    (only() / "compression.json").write_text("[]")
    assert cli("stage=report").code == 0
    assert 'id="compression"' not in Path("outputs/main/report/index.html").read_text()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("student", ["data.centre=true"]),
        ("student", ["model.hidden=[16,8]"]),
        ("teacher", ["model=cnn"]),
        pytest.param("student", ["model=resnet8", "model.width=2"], marks=BATCH_NORM),
        pytest.param("student", CUSTOM, marks=BATCH_NORM),
    ],
)
def test_any_network_and_any_stage_can_be_exported(cli, tmp_path, monkeypatch, stage, words):
    (tmp_path / "mine.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli(f"stage={stage}", *MINI, *words).code == 0
    (run,) = complete()
    said = cli(*EXPORT, f"export.run={run}", "export.tolerance=1", "trust_code=true")
    assert said.code == 0, said.err
    images, logits = recorded(run)
    np.testing.assert_allclose(ask(only() / "student.onnx", images), logits, atol=1e-4)
    with torch.no_grad():
        again = load_student(only(), trust_code=True)(images)
    np.testing.assert_allclose(again, logits, atol=1e-4)
    sys.modules.pop("mine", None)


def test_a_checkpoint_of_an_epoch_and_one_alone(outputs, cli):
    assert cli("stage=student", *MINI, "seed=5", "keep_epochs=true", "study=epochs").code == 0
    (run,) = complete("epochs")
    said = cli(*EXPORT, "study=epochs", f"export.run={run}/epochs/1.ckpt")
    assert said.code == 0, said.err
    assert only("epochs").name == f"student-{run.name}-epoch=1"
    shutil.copy(run / "model.ckpt", "mine.ckpt")
    wrong = cli(*EXPORT, "export.run=mine.ckpt", "study=alone", "data=mnist_mini", "data.seed=1")
    one_line(wrong.err, "was trained on another data split")
    assert cli(*EXPORT, "export.run=mine.ckpt", "study=alone", "data=mnist_mini").code == 0
    images, logits = recorded(run)
    np.testing.assert_allclose(ask(only("alone") / "student.onnx", images), logits, atol=1e-4)


def test_all_exports_one_network_of_every_size(outputs, cli):
    words = ("-m", "stage=student,distill", "kd.T=2", "kd.alpha=0.5", "seed=0", *MINI)
    assert cli(*words, "model.hidden=8,16").code == 0
    said = cli(*EXPORT, "export.run=all")
    assert said.code == 0, said.err
    found = [
        json.loads(p.read_text())["shape"] for p in Path("outputs").glob("*/export/*/c*n.json")
    ]
    assert sorted(found) == ["mlp hidden=16", "mlp hidden=32", "mlp hidden=8"]


def test_int8_that_loses_too_much_is_kept_aside_and_named(outputs, cli, monkeypatch):
    def poor(fp32, folder, train, count):
        model = onnx.load(fp32)
        for weight in model.graph.initializer:
            if weight.data_type == onnx.TensorProto.FLOAT:
                weight.raw_data = bytes(len(weight.raw_data))
        onnx.save(model, folder / "static.onnx")
        return {"static": folder / "static.onnx"}, []

    monkeypatch.setattr(int8, "quantise", poor)
    said = cli(*EXPORT, f"export.run={only().name.replace('distill-', 'distill/')}")
    assert said.code == 0, said.err
    assert "refused, since it loses more than export.tolerance=0.02" in said.out
    names = {path.name for path in only().iterdir()}
    assert names == FILES - {"student.int8.onnx"} | {"student.int8.refused.onnx"}
    assert "**Refused**" in (only() / "MODEL_CARD.md").read_text()


def test_a_file_that_answers_otherwise_is_refused_and_the_old_export_stays(
    outputs, cli, monkeypatch
):
    before = tree(Path("outputs"))
    true = pack.formats.open_onnx

    def shifted(path, threads=1):
        return lambda images: true(path, threads)(images) + 1e-3

    monkeypatch.setattr(pack.formats, "open_onnx", shifted)
    one_line(cli(*EXPORT).err, "student.onnx: answers other than the network does")
    assert tree(Path("outputs")) == before


def test_mistakes_are_one_line_and_leave_nothing(outputs, cli, tmp_path, monkeypatch):
    begun = Path("outputs/main/student/begun")
    begun.mkdir()
    (begun / "train.log").touch()
    shutil.copytree(complete(stage="student")[0], "outputs/main/student/bare")
    Path("outputs/main/student/bare/model.ckpt").unlink()
    Path("outputs/main/export").rename("aside")
    before = tree(Path("outputs"))
    expected = {
        "outputs/none": "export.run=outputs/none: no such run or checkpoint",
        "outputs/main/student/begun": "is not complete",
        "student/begun": "is not complete",
        "distill/T=9.0,alpha=0.5,seed=0": "no such run or checkpoint",
        "outputs/main": "is no run's folder",
        "[outputs/main/teacher,outputs/main/student]": "an ensemble is exported a member at a time",
        "student/bare": "is missing",
        "outputs/main/results.csv": "not safe to load",
    }
    for given, said in expected.items():
        found = cli(*EXPORT, f"export.run={given}")
        assert found.code == 1
        one_line(found.err, said)
    one_line(cli(*EXPORT, "study=empty").err, "no complete run")
    one_line(cli(*EXPORT, "export.tolerance=2").err, "must be a number from 0 to 1")
    one_line(cli("-m", *EXPORT, "seed=0,1").err, "stage=export: goes without -m")
    monkeypatch.setattr(build, "NEEDED", ("onnx", "no_such_package"))
    one_line(cli(*EXPORT).err, "needs no_such_package; pip install 'kd[export]'")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is no run"):
        kd.run("stage=export")
    assert tree(Path("outputs")) == before
    assert not Path("outputs/empty").exists()
    Path("outputs/main/export").write_text("in the way")
    found = cli(*EXPORT)
    assert found.code == 1
    assert found.err.count("\n") == 1


def test_code_that_cannot_be_exported_or_is_not_trusted(outputs, cli, tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("model=custom", "model.target=odd.Looks", "study=odd")
    assert cli("stage=student", *MINI, *words).code == 0
    (run,) = complete("odd")
    before = without_locks()
    one_line(cli(*EXPORT, f"export.run={run}").err, "stage=export take trust_code=true")
    said = cli(*EXPORT, f"export.run={run}", "trust_code=true")
    one_line(said.err, "cannot be exported; its code may decide by")
    assert without_locks() == before
    sys.modules.pop("odd", None)
