"""The optimiser of a stack whose students differ in rate, decay and the like.

Each student's update is that of ``torch.optim``; its numbers are rows of tensors. Where all
students agree in these, torch's own optimiser serves, in one pass over memory. Else torch's kernel
makes Adam's moves at a rate of 1, and the students' own rates scale them.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from kd.config.schema import Optim
from kd.sweeps.layout import Numbered
from kd.training.book import make_optimizer, make_schedule
from kd.training.tracing import adam_moves

BLOCK = 2**20  # values that Adam's kernel moves at a time: what it takes of them stays in the cache


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


class Piece(NamedTuple):
    """Rows of a parameter whose students have the same betas and eps."""

    parameter: int
    rows: slice
    student: int  # one of these


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
        self._lay_out()

    def _lay_out(self) -> None:
        """Lay the students' constants out, and cut the parameters for calls of Adam's kernel."""
        self.decays = self._of_rows(self.decay) if self.decay.any() else None
        betas = torch.unique(self.courses[:, :, 1:], dim=0, return_inverse=True)[1]
        agree = Numbered()
        pairs = zip(betas[self.course].tolist(), self.eps.tolist(), strict=True)
        alike = torch.tensor([agree(pair) for pair in pairs])
        self.pieces: list[Piece] = []
        parameters = self.param_groups[0]["params"]
        for at, (parameter, rows) in enumerate(zip(parameters, self.rows, strict=True)):
            students, first = rows.cpu(), 0
            _, counts = alike[students].unique_consecutive(return_counts=True)
            most = max(1, BLOCK * len(parameter) // parameter.numel())
            for end in counts.cumsum(0).tolist():
                for row in range(first, end, most):
                    part = slice(row, min(row + most, end))
                    self.pieces.append(Piece(at, part, int(students[row])))
                first = end
        longest = max(parameters[at][rows].numel() for at, rows, _ in self.pieces)
        self.moves = torch.empty(longest, device=parameters[0].device)

    def _of_rows(self, values: Tensor) -> list[Tensor]:
        """Numbers of the students, shaped to be multiplied with the parameters."""
        return [
            values.to(parameter).index_select(0, rows).view(-1, *[1] * (parameter.ndim - 1))
            for parameter, rows in zip(self.param_groups[0]["params"], self.rows, strict=True)
        ]

    def _now(self) -> tuple[Tensor, Tensor, Tensor]:
        """The students' rates, first and second numbers at the step to come."""
        step = min(self.param_groups[0]["taken"], self.courses.shape[1] - 1)
        rate, first, second = self.courses[:, step].index_select(0, self.course).unbind(1)
        return rate * self.lr, first, second

    def rates(self) -> list[float]:
        """The students' learning rates at the step to come."""
        return self._now()[0].tolist()

    def keep(self, places: Sequence[int], rows: Sequence[Tensor]) -> None:
        """Continue with the students of these places; ``rows`` is of the new parameters."""
        these, self.rows = torch.tensor(places), list(rows)
        self.course, self.lr = self.course[these], self.lr[these]
        self.eps, self.decay = self.eps[these], self.decay[these]
        self._lay_out()

    @torch.no_grad()
    def take(self, gradients: Sequence[Tensor]) -> None:
        """A step by gradients in the order of the parameters, whose memory it uses up."""
        rate, first, second = self._now()
        self.param_groups[0]["taken"] += 1
        rates = self._of_rows(rate)
        if self.kind == "sgd":
            self._sgd(gradients, rates, self._of_rows(first))
            return
        decoupled = self.decays is not None and self.kind == "adamw"
        keeps = self._of_rows(1 - rate * self.decay) if decoupled else None
        self._adam(gradients, rates, keeps, first.tolist(), second.tolist())

    def _state(self, parameter: Tensor, *names: str) -> list[Tensor]:
        """What is kept of a parameter, 0 at first."""
        state = self.state[parameter]
        if not state:
            state |= {name: torch.zeros_like(parameter) for name in names}
        return [state[name] for name in names]

    def _sgd(
        self, gradients: Sequence[Tensor], rates: Sequence[Tensor], momenta: Sequence[Tensor]
    ) -> None:
        for at, parameter in enumerate(self.param_groups[0]["params"]):
            if self.decays:
                gradients[at].addcmul_(parameter, self.decays[at])
            (mean,) = self._state(parameter, "momentum_buffer")
            mean.mul_(momenta[at]).add_(gradients[at])
            parameter.addcmul_(mean, rates[at], value=-1)

    def _adam(
        self,
        gradients: Sequence[Tensor],
        rates: Sequence[Tensor],
        keeps: Sequence[Tensor] | None,
        first: Sequence[float],
        second: Sequence[float],
    ) -> None:
        """Adam's steps, or AdamW's, which multiplies the parameters with what it keeps of them."""
        parameters, eps = self.param_groups[0]["params"], self.eps.tolist()
        states = [self._state(parameter, "exp_avg", "exp_avg_sq") for parameter in parameters]
        taken = torch.tensor(float(self.param_groups[0]["taken"]), device=self.moves.device)
        for at, rows, student in self.pieces:
            parameter, gradient, mean, square = (
                tensor[rows] for tensor in (parameters[at], gradients[at], *states[at])
            )
            if keeps:
                parameter.mul_(keeps[at][rows])
            elif self.decays:
                gradient.addcmul_(parameter, self.decays[at][rows])
            out = self.moves[: parameter.numel()].view_as(parameter)
            betas = first[student], second[student]
            moves = adam_moves(gradient, (mean, square), taken, betas, eps[student], out)
            parameter.addcmul_(moves, rates[at][rows])
