"""The optimiser of a stack whose students differ in rate, decay and the like.

Each student's update is that of ``torch.optim``; its numbers are rows of tensors. Where all
students agree in these, torch's own optimiser serves, in one pass over memory.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from kd.config.schema import Optim
from kd.training.book import make_optimizer, make_schedule


@functools.lru_cache(maxsize=256)
def course_of(
    name: str, schedule: str, betas: tuple[float, ...], momentum: float, steps: int
) -> Tensor:
    """What torch's scheduler makes of a rate of 1 and of the first numbers over so many steps.

    Returns:
        (steps, 3): the rate; Adam's first beta, or the momentum; Adam's second beta.
    """
    optim = Optim(name, 1.0, schedule, list(betas), momentum=momentum)
    optimizer = make_optimizer(optim, [nn.Parameter(torch.zeros(()))])
    scheduler = make_schedule(optimizer, optim, steps)
    optimizer.step()  # of nothing: torch warns of a schedule that moves on without one
    found, (group,) = [], optimizer.param_groups
    for _ in range(steps):
        found.append((group["lr"], *(group.get("betas") or (group["momentum"], 0.0))))
        if scheduler and len(found) < steps:
            scheduler.step()
    return torch.tensor(found, dtype=torch.float64)


class OwnNumbers(Optimizer):
    """Adam, AdamW or SGD of many students side by side, each with numbers of its own.

    Args:
        parameters: whose rows belong to one student each.
        rows: of each parameter, the students of its rows.
        optims: the students' settings, of one ``name``.
        steps: how many each student takes.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rows: Sequence[Tensor],
        optims: Sequence[Optim],
        steps: Sequence[int],
    ) -> None:
        super().__init__(parameters, {"taken": 0})
        self.kind, self.rows = optims[0].name, list(rows)
        wanted = [
            (o.name, o.schedule, tuple(o.betas), o.momentum, n)
            for o, n in zip(optims, steps, strict=True)
        ]
        distinct = list(dict.fromkeys(wanted))
        # (courses, steps, parts); after a student's last step its numbers stay as they are
        self.courses = pad_sequence([course_of(*key) for key in distinct], batch_first=True)
        for course, key in zip(self.courses, distinct, strict=True):
            course[key[-1] :] = course[key[-1] - 1]
        self.course = torch.tensor([distinct.index(key) for key in wanted])

        def column(values: Iterable[float]) -> Tensor:
            return torch.tensor([*values], dtype=torch.float64)

        self.lr, self.eps, self.decay = (
            column(getattr(optim, name) for optim in optims)
            for name in ("lr", "eps", "weight_decay")
        )
        self.decays = bool(self.decay.any())

    def _now(self) -> tuple[Tensor, Tensor, Tensor]:
        """The students' rates, first and second numbers at the step to come."""
        step = min(self.param_groups[0]["taken"], self.courses.shape[1] - 1)
        rate, first, second = self.courses[:, step].index_select(0, self.course).unbind(1)
        return rate * self.lr, first, second

    def rates(self) -> list[float]:
        """The students' learning rates at the step to come."""
        return self._now()[0].tolist()

    def keep(self, places: Sequence[int], rows: Sequence[Tensor]) -> None:
        """Go on with the students of these places; ``rows`` is of the new parameters."""
        self.rows, these = list(rows), torch.tensor(places)
        self.course, self.lr = self.course[these], self.lr[these]
        self.eps, self.decay = self.eps[these], self.decay[these]
        self.decays = bool(self.decay.any())  # as an optimiser that is made of these has it

    @torch.no_grad()
    def take(self, gradients: Sequence[Tensor]) -> None:
        """A step by gradients in the order of the parameters, whose memory it uses up."""
        (group,) = self.param_groups
        rate, first, second = self._now()
        group["taken"] += 1
        numbers = {"decay": self.decay, "keep": 1 - rate * self.decay, "first": first}
        if self.kind == "sgd":
            numbers |= {"rate": -rate}
        else:  # bias corrections, as torch has them
            taken = group["taken"]
            root = (1 - second**taken).sqrt()
            numbers |= {"rate": -rate * root / (1 - first**taken), "eps": self.eps * root}
            numbers |= {"to_first": 1 - first, "to_second": 1 - second}
        for parameter, gradient, rows in zip(group["params"], gradients, self.rows, strict=True):
            shape = -1, *[1] * (parameter.ndim - 1)
            own = {
                name: values.to(parameter).index_select(0, rows).view(shape)
                for name, values in numbers.items()
            }
            if self.decays:
                if self.kind == "adamw":
                    parameter.mul_(own["keep"])
                else:
                    gradient.addcmul_(parameter, own["decay"])
            state = self.state[parameter]
            update = self._sgd if self.kind == "sgd" else self._adam
            parameter.addcmul_(update(state, gradient, own), own["rate"])

    @staticmethod
    def _sgd(state: dict[str, Any], gradient: Tensor, own: dict[str, Tensor]) -> Tensor:
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"]
        return mean.mul_(own["first"]).add_(gradient)

    @staticmethod
    def _adam(state: dict[str, Any], gradient: Tensor, own: dict[str, Tensor]) -> Tensor:
        if not state:
            state |= {name: torch.zeros_like(gradient) for name in ("exp_avg", "exp_avg_sq")}
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, own["to_first"])
        square.lerp_(gradient.square_(), own["to_second"])
        spread = torch.sqrt(square, out=gradient).add_(own["eps"])
        return torch.div(mean, spread, out=spread)
