"""Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent"."""

from dataclasses import dataclass

from kd.methods.base import label_weight, temperature
from kd.methods.hinton import Hinton


@dataclass
class FunctionMatching(Hinton):
    """Beyer et al. 2022: the teacher's predictions on views that both see, and no labels."""

    T: float = temperature(1.0)
    alpha: float = label_weight(0.0)
