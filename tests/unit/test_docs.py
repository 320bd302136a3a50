"""What the docs name exists, and their examples work."""

import doctest
import importlib
import re
import sys

import pytest

from kd.files import PROJECT
from kd.methods import find_method
from kd.models import build_model

PAGES = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), PROJECT / "kd/sweeps/README.md"]
ROOMS = r"kd|conf|tests|docs|benchmarks|hydra_plugins"
HISTORY = "CHANGELOG.md"  # names what was


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_path_exists(page):
    text = page.read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    assert all((page.parent / path).exists() for path in linked)
    if page.name != HISTORY:
        named = re.findall(rf"`((?:{ROOMS})/[\w./]+)`", text)
        made_up = ("NAME", "kd/conf", "logits", "deep")  # in examples; in an installed package
        lost = [path for path in named if not (PROJECT / path).exists()]
        assert [path for path in lost if not any(word in path for word in made_up)] == []


@pytest.fixture
def examples(tmp_path, monkeypatch) -> str:
    """A package with the files that CONTRIBUTING.md shows, by its name."""
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folder = tmp_path / "shown"
    folder.mkdir()
    method, network = re.findall(r"```python\n(.*?)```", text, re.S)
    (folder / "__init__.py").touch()
    (folder / "logits.py").write_text(method)
    (folder / "deep.py").write_text(network)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder.name
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]


def test_the_method_of_contributing_works(examples):
    module = importlib.import_module(f"{examples}.logits")
    assert find_method(module.__name__)(term_weight=2.0).term_weight == 2
    found = doctest.testmod(module)
    assert (found.attempted, found.failed) == (2, 0)


def test_the_network_of_contributing_works(examples):
    import torch

    settings = importlib.import_module(f"{examples}.deep").Deep(width=5)
    assert build_model(settings, seed=0)(torch.rand(3, 1, 28, 28)).shape == (3, 10)
