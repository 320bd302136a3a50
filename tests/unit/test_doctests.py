"""The examples in the docstrings of every module hold."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import kd

MODULES = [m.name for m in pkgutil.walk_packages(kd.__path__, "kd.") if "__main__" not in m.name]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_hold(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert any(test.examples for test in found)
