"""Made-up outputs of networks, for the tests of every method."""

import pytest
import torch
from torch import Tensor


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def dtype(request) -> torch.dtype:
    """Each of the precisions that a loss is compared with golden numbers in."""
    return request.param


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and a teacher, and labels, in float64."""
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 16, 10, generator=random, dtype=torch.float64) * 3
    return student.requires_grad_(), teacher, torch.randint(10, (16,), generator=random)


@pytest.fixture
def hidden() -> tuple[Tensor, Tensor]:
    """Hidden representations of a student and a teacher, in float64."""
    random = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 9, 32, generator=random, dtype=torch.float64)
    return student, teacher


@pytest.fixture
def turn() -> Tensor:
    """A rotation of the 32 units of a hidden layer."""
    random = torch.Generator().manual_seed(2)
    return torch.linalg.qr(torch.randn(32, 32, generator=random, dtype=torch.float64)).Q
