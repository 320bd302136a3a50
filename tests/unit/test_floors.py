"""The floors: a package imports only from those below it; docs/architecture.md draws them."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from draw_floors import FLOORS, MARKS, PAGE, floor_of, imports, modules, redrawn, room_of

from kd.files import PROJECT

IMPORTS = imports()
PACKAGES = ["kd", *(room for floor in FLOORS for room in floor if room.startswith("kd."))]


def test_no_module_imports_from_above():
    upwards = [
        f"{module} imports {other}"
        for module, found in IMPORTS.items()
        for other in found
        if floor_of(room_of(other)) > floor_of(room_of(module))
    ]
    assert not upwards


def test_packages_of_one_floor_do_not_import_each_other():
    across = [
        f"{module} imports {other}"
        for module, found in IMPORTS.items()
        for other in found
        if floor_of(room_of(other)) == floor_of(room_of(module))
        and room_of(other) != room_of(module)
    ]
    assert not across


def test_no_circle_between_modules():
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the circle


def test_every_import_is_seen():
    """Of each kind one: at the top, inside a function, loaded lazily by a module, by a package."""
    assert "kd.methods.base" in IMPORTS["kd.methods.dkd"]
    assert "kd.training.run" in IMPORTS["kd.__main__"]
    assert "kd.models.network" in IMPORTS["kd.models.cnn"]
    assert "kd.api" in IMPORTS["kd"]


def test_the_top_of_kd_is_small():
    assert len(list((PROJECT / "kd").glob("*.py"))) <= 12


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_for_and_what_is_public(package):
    tree = ast.parse(modules()[package].read_text(encoding="utf-8"))
    prose = [line for line in (ast.get_docstring(tree) or "").splitlines() if line.strip()]
    assert 1 <= len(prose) <= 4
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    assert any(ast.unparse(node.targets[0]) == "__all__" for node in assigned)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_are_no_modules(package):
    found = importlib.import_module(package)
    public = getattr(found, "__all__", [])
    assert all(getattr(found, name) is not None for name in public)
    inside = {
        name.removeprefix(f"{package}.") for name in modules() if name.startswith(f"{package}.")
    }
    assert not inside & set(public)


def test_importing_what_starts_a_command_loads_nothing_heavy():
    code = """
import importlib, sys
for name in ("kd", "kd.config", "kd.methods", "kd.models", "kd.api"):
    importlib.import_module(name)
    heavy = {"torch", "pytorch_lightning", "pandas", "matplotlib"} & set(sys.modules)
    assert not heavy, f"{name} loads {heavy}"
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_picture_is_up_to_date():
    page = PAGE.read_text(encoding="utf-8")
    assert all(page.count(mark) == 1 for mark in MARKS)
    assert redrawn(page) == page, "run: python docs/draw_floors.py"
