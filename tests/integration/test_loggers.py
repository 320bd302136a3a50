"""``logger=…``: which loggers get a run's settings and figures, alone and in a group."""

import sqlite3
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import yaml
from helpers import MINI, complete, metrics, one_line, tree
from pytorch_lightning.loggers import Logger

STUDENT = ("stage=student", *MINI)


class Told(Logger):
    """Notes what it is told, in the order of the calls; of each object a list."""

    all: ClassVar[list["Told"]] = []
    name, version = "told", "0"

    def __init__(self, run="", fails=""):
        super().__init__()
        self.run, self.fails, self.calls = run, fails, []
        Told.all.append(self)

    def note(self, call, *content):
        self.calls.append((call, *content))
        if call == self.fails:
            raise RuntimeError("the server\nis gone")

    def log_hyperparams(self, params, *_, **__):
        self.note("settings", dict(params))

    def log_metrics(self, metrics, step=None):
        self.note("figures", dict(metrics), step)

    def finalize(self, status):
        self.note("end", status)


@pytest.fixture
def told(monkeypatch):
    """The words that choose ``Told``; it is found by a module of its own."""
    import sys
    import types

    module = types.ModuleType("told_by_tests")
    module.Told = Told
    monkeypatch.setitem(sys.modules, "told_by_tests", module)
    Told.all.clear()
    return ("+logger.told._target_=told_by_tests.Told", "+logger.told.run='{run}'")


def test_a_logger_is_told_of_settings_epochs_and_test(cli, told):
    said = cli(*STUDENT, *told)
    assert said.code == 0, said.err
    logger = Told.all[-1]
    assert [call[0] for call in logger.calls] == ["settings", *["figures"] * 3, "end"]
    (_, settings), *figures, end = logger.calls
    assert (settings["kd/T"], settings["stage"], settings["model/name"]) == (2.0, "student", "mlp")
    assert [step for *_, step in figures] == [1, 2, 2]
    (run,) = complete()
    history = pd.read_csv(run / "history.csv", index_col="epoch")
    assert figures[0][1] == history.loc[1].to_dict()
    assert figures[-1][1] == {key: metrics(run)[key] for key in figures[-1][1]}
    assert {"test/acc", "time/fit_s"} <= figures[-1][1].keys()
    assert end == ("end", "success")
    assert logger.run == f"student/{run.name}"


@pytest.mark.slow
def test_each_student_of_a_group_has_a_logger(cli, told):
    alone = cli("-m", *STUDENT, "seed=0,1", *told, "hydra/launcher=basic", "study=alone")
    assert alone.code == 0, alone.err
    one_by_one = [logger for logger in Told.all if logger.calls]
    Told.all.clear()
    said = cli("-m", *STUDENT, "seed=0,1", *told)
    assert said.code == 0, said.err
    assert "2 students train together" in said.out
    together = [logger for logger in Told.all if logger.calls]
    assert [logger.run for logger in together] == [logger.run for logger in one_by_one]
    for mine, its in zip(together, one_by_one, strict=True):
        assert [(c[0], *c[2:]) for c in mine.calls] == [(c[0], *c[2:]) for c in its.calls]
        pairs = zip(mine.calls[1:-2], its.calls[1:-2], strict=True)
        assert all(a[1] == pytest.approx(b[1], rel=1e-3) for a, b in pairs)


@pytest.mark.parametrize("call", ["settings", "figures", "end"])
@pytest.mark.parametrize("many", [False, True])
def test_a_logger_that_fails_does_not_harm_the_run(cli, told, call, many):
    words = (*told, f"+logger.told.fails={call}", *(["-m", "seed=0,1"] if many else []))
    said = cli(*STUDENT, *words)
    assert said.code == 0, said.err
    assert said.out.count("logger=told: failed, and gets no more: the server is gone") == 1
    assert len(complete()) == 1 + many
    assert "Traceback" not in said.out + said.err


def test_a_run_that_fails_tells_its_loggers(cli, told):
    said = cli(*STUDENT, *told, "optim.lr=1e30")
    assert said.code == 1
    assert Told.all[-1].calls[-1] == ("end", "failed")


def test_no_logger_at_all(cli):
    said = cli(*STUDENT, "logger=[]")
    assert said.code == 0, said.err
    assert "tensorboard" not in said.out
    (run,) = complete()
    assert not [name for name in tree(run) if "events" in name]
    assert (run / "history.csv").exists()


def test_loggers_make_no_other_run(cli):
    assert cli(*STUDENT).code == 0
    before = tree(Path("outputs"))
    said = cli(*STUDENT, "logger=[csv,tensorboard]", "logger.tensorboard.directory=elsewhere")
    assert "skipped" in said.out, said.err
    assert tree(Path("outputs")) == before


def test_several_loggers_and_what_they_left_is_replaced(cli):
    words = (*STUDENT, "logger=[tensorboard,csv]")
    assert cli(*words).code == 0
    (run,) = complete()
    table = pd.read_csv(run / "metrics.csv")
    assert table["step"].tolist() == [1, 2, 2]
    assert table["test/acc"].iloc[-1] == metrics(run)["test/acc"]
    assert yaml.safe_load((run / "hparams.yaml").read_text())["optim/lr"] == 0.01
    assert len(list(run.glob("events*"))) == 1
    saved = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    assert set(saved["logger"]) == {"tensorboard", "csv"}
    said = cli(*STUDENT, "overwrite=true")
    assert "Experiment logs" not in said.out + said.err
    assert not {"metrics.csv", "hparams.yaml"} & {path.name for path in run.iterdir()}


@pytest.mark.slow
def test_nothing_is_made_of_a_saved_configuration(cli, teacher):
    path = teacher / ".hydra/config.yaml"
    saved = yaml.safe_load(path.read_text())
    saved["logger"] = {"x": {"_target_": "os.mkdir", "path": "code_ran"}}
    path.write_text(yaml.safe_dump(saved))
    for words in (("stage=teacher", *MINI), ("stage=distill", *MINI), ("stage=report",)):
        assert cli(*words).code == 0
    assert not Path("code_ran").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
@pytest.mark.parametrize("many", [(), ("-m", "seed=0,1")])
def test_a_missing_package_is_said_before_anything_is_trained(cli, monkeypatch, name, many):
    import sys

    found = sys.modules["pytorch_lightning.loggers"]
    lacks = {"wandb": "wandb._WANDB_AVAILABLE", "mlflow": "mlflow._MLFLOW_AVAILABLE"}[name]
    monkeypatch.setattr(f"{found.__name__}.{lacks}", False)
    said = cli(*STUDENT, *many, f"logger=[tensorboard,{name}]")
    assert said.code == 1
    one_line(said.err, f"logger={name}: needs the package {name}; pip install 'kd[{name}]'")
    assert not complete()
    assert not list(Path("outputs").glob("*/student"))


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True])
def test_weights_and_biases_offline(cli, many):
    pytest.importorskip("wandb")
    words = ("-m", "seed=0,1") if many else ()
    said = cli(*STUDENT, *words, "logger=wandb", "logger.wandb.offline=true")
    assert said.code == 0, said.err
    assert "failed" not in said.out
    assert len(list(Path("outputs/main/wandb").glob("offline-run-*"))) == 1 + many


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True])
def test_mlflow_in_a_local_database(cli, many):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    words = ("-m", "seed=0,1") if many else ()
    said = cli(*STUDENT, *words, "logger=mlflow")
    assert said.code == 0, said.err
    with sqlite3.connect("outputs/mlflow.db") as database:

        def ask(words: str) -> list[tuple]:
            return database.execute(words).fetchall()

        assert ask("select name, status from runs") == [
            (f"student/{run.name}", "FINISHED") for run in complete()
        ]
        joined = "latest_metrics join runs r using (run_uuid)"
        found = dict(ask(f"select r.name, value from {joined} where key = 'test/acc'"))
        assert found == {f"student/{r.name}": metrics(r)["test/acc"] for r in complete()}
        assert ("seed",) in ask("select key from params")
