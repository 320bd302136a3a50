"""Reading the golden numbers, and the tolerances that every correct implementation passes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def cases(name: str) -> list:
    """The cases of one golden file, as pytest parameters."""
    content = json.loads((GOLDEN / f"{name}.json").read_text())
    return [pytest.param(case, id=case["id"]) for case in content["cases"]]


def tensors(case: dict, dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs of a case; labels stay whole numbers."""
    return {
        key: torch.tensor(value, dtype=torch.int64 if key == "labels" else dtype)
        for key, value in case["inputs"].items()
    }


def check(case: dict, dtype: torch.dtype, loss: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """Compare a loss and its gradient in the student with the golden ones."""
    inputs = tensors(case, dtype)
    kind = "logits" if "student_logits" in inputs else "features"
    student = inputs[f"student_{kind}"].requires_grad_()
    teacher = inputs[f"teacher_{kind}"].requires_grad_()
    value = loss(inputs)
    value.backward()
    expected, gradient = case["loss"], torch.tensor(case["grad"], dtype=torch.float64)
    largest, T = gradient.abs().max().item(), case["params"].get("T", 1)
    if dtype == torch.float64:
        close = {"rel": 1e-9, "abs": 1e-11 * max(1, T**2)}
        allowed = 1e-8 * largest + 1e-12
    elif T <= 10:
        close, allowed = {"rel": 2e-5, "abs": 2e-6}, 2e-5 * largest + 1e-7
    else:
        close, allowed = {"rel": 2e-3, "abs": 1e-3}, 1e-4 * largest + 1e-7
    assert value.shape == ()
    assert value.item() == pytest.approx(expected, **close)
    if case.get("grad_reliable", True):
        assert (student.grad.double() - gradient).abs().max().item() <= allowed
    assert teacher.grad is None, "the teacher is a constant"
