"""A method in the user's own package: found by its name, and swept like ours."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import MINI, interrupting, metrics

from kd.training import own_code

METHOD = '''
from dataclasses import dataclass

from kd.fields import count, sweepable
from kd.methods import kd_loss
from kd.methods.base import Distillation, temperature, weight


@dataclass
class Powered(Distillation):
    """Powers of plain distillation."""

    T: float = temperature(3.0)
    scale: float = weight(2.0)
    times: int = sweepable(count(1, most=5))
    power: int = count(2, most=4)
    squared: bool = False

    def term(self, student, teacher, labels):
        loss = self.times * kd_loss(student.logits, teacher.logits, self.T)
        return self.scale * (loss**self.power if self.squared else loss * self.power)
'''
SWEEP = ("-m", "stage=distill", *MINI, "kd.method=my_package.powered", "kd.times=1,3")


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "path" / "my_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "powered.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        monkeypatch.delitem(sys.modules, name)  # another test's
    return folder


def logits(study: str) -> dict[str, np.ndarray]:
    runs = Path("outputs", study, "distill").glob("*/metrics.json")
    return {run.parent.name: np.load(run.parent / "predictions.npz")["logits"] for run in runs}


@pytest.mark.slow
def test_it_is_swept_together_as_one_by_one(cli, teacher, package):
    keys = ("kd.power=1,2", "kd.squared=true,false", f"teacher.checkpoint={teacher}")
    said = cli(*SWEEP, *keys, "study=together")
    assert said.code == 0, said.err
    assert re.findall(r"\d+ students train together", said.out) == ["8 students train together"]
    assert cli(*SWEEP, *keys, "study=apart", "hydra/launcher=basic").code == 0
    together, apart = logits("together"), logits("apart")
    assert len(together) == 8
    assert together.keys() == apart.keys()
    for name in together:
        assert np.abs(together[name] - apart[name]).max() < 1e-3, name
    distinct: list[np.ndarray] = []
    for values in together.values():
        if not any(np.abs(values - other).max() < 1e-3 for other in distinct):
            distinct.append(values)
    assert len(distinct) == 6, "of power=1 the square makes no difference"
    for name in together:
        found = metrics(Path("outputs/together/distill", name))
        assert found["kd/method"] == "my_package.powered"
        for key in ("times", "power", "squared"):
            assert f"kd.{key}={str(found[f'kd/{key}']).lower()}" in name


def test_its_defaults_are_its_own(cli, teacher, package):
    said = cli("stage=distill", *MINI, "kd.method=my_package.powered", "kd.scale=1.5")
    assert said.code == 0, said.err
    (run,) = Path("outputs/main/distill").iterdir()
    assert metrics(run)["kd/T"] == 3.0
    assert metrics(run)["kd/scale"] == 1.5
    assert "kd/direction" not in metrics(run)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("kd.method=my_package.missing", "cannot be imported (No module named"),
        ("kd.method=my_package.broken", "cannot be imported (division by zero)"),
        ("kd.method=my_package.termless", "Termless does not define term"),
        ("kd.method=my_package", "choose kd=NAME from"),
        ("kd.method=os.path", "must define one class that derives from Distillation"),
        ("kd.method=.powered", "cannot be imported"),
    ],
)
def test_what_is_no_method_is_one_line(cli, package, word, message):
    (package / "broken.py").write_text("1 / 0\n")
    (package / "termless.py").write_text(
        "from kd.methods import Distillation\nclass Termless(Distillation): pass\n"
    )
    said = cli("stage=distill", word)
    assert said.code == 1
    assert message in said.err
    assert said.err.count("\n") == 1
    assert "kd.method=" in said.err
    assert not Path("outputs").exists()


def test_its_own_bounds_hold(cli, package):
    said = cli("stage=distill", "kd.method=my_package.powered", "kd.power=9")
    assert said.code == 1
    assert "kd.power=9: must be a whole number from 1 to 4" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
def test_a_method_that_was_changed_is_not_gone_on_with(cli, teacher, package, monkeypatch, sweep):
    words = (*sweep, "stage=distill", *MINI, "kd.method=my_package.powered")

    with interrupting():
        cli(*words)
    (package / "powered.py").write_text(METHOD.replace("self.times *", "7 * self.times *"))
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(own_code, "_imported", {})  # as in a new process
    said = cli(*words)
    assert said.code == 0, said.err
    assert "removed, the training starts over" in said.out
