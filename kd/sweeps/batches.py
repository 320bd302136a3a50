"""What the students of a group take of each batch: images, labels, their teachers' outputs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kd.config.schema import Config
from kd.data.module import CHUNK, Batches, ImageDataModule
from kd.methods.base import loss_weights_at
from kd.outputs import Outputs
from kd.sweeps.layout import Kind, Numbered, Rows
from kd.training.controls import lessons
from kd.training.material import Material


class Orders:
    """The training batches of several lanes, as indices into the pool.

    Yields (batches, lanes, batch), up to ``CHUNK`` batches in the order that each lane has alone;
    a smaller batch at an epoch's end comes by itself.
    """

    def __init__(self, batches: Sequence[Batches]) -> None:
        self.batches = list(batches)
        first = self.batches[0]
        self.added, self.size = first.added, first.batch_size + first.added
        self.full, left = divmod(first.samples, first.batch_size)
        self.left = left + self.added if left else 0

    def __len__(self) -> int:
        """How many chunks an epoch has."""
        return -(-self.full // CHUNK) + (self.left > 0)

    def __iter__(self) -> Iterator[Tensor]:
        """One epoch."""
        order = torch.stack([batches.epoch() for batches in self.batches])
        full, left = order.split([self.full * self.size, self.left], dim=1)
        if self.full:
            yield from full.unflatten(1, (-1, self.size)).transpose(0, 1).contiguous().split(CHUNK)
        if self.left:
            yield left.unsqueeze(0)


class KindBatches:
    """What the students of one kind take of each batch: labels, teacher's outputs and numbers.

    Args:
        kind: of students.
        configs: of all students of the stack.
        materials: of these.
        lanes: of these, as numbers.
        device: where they train.
    """

    def __init__(
        self,
        kind: Kind,
        configs: Sequence[Config],
        materials: Sequence[Material],
        lanes: Sequence[int],
        device: torch.device,
    ) -> None:
        self.kind, self.device = kind, device
        labels, teachers = Numbered(), Numbered()
        label_rows, teacher_rows = [], []
        self.data: list[tuple[int, ImageDataModule]] = []  # with labels, by lane
        self.outputs: dict[Any, Outputs] = {}  # by checkpoints and by what is taught of them
        taught = [place for place in kind.places if materials[place].teachers]
        for place in kind.places:
            material, lane = materials[place], lanes[place]
            label_rows.append(labels((lane, configs[place].data.label_noise)))
            if label_rows[-1] == len(self.data):
                self.data.append((lane, material.data))
            if kind.kd is not None:  # at alpha = 1 any teacher serves
                which = place if material.teachers else taught[0]
                checkpoints, settings = materials[which].teachers, configs[which].teacher
                name = tuple(checkpoints), settings.control, settings.clip
                if name not in self.outputs:
                    self.outputs[name] = lessons(configs[which], materials[which])
                teacher_rows.append(teachers((lane, name)))
        self.pairs = teachers.all()  # of lanes and teachers
        self.label_rows = Rows(label_rows, device)
        self.teacher_rows = Rows(teacher_rows, device) if teacher_rows else None
        smoothing = [configs[place].optim.label_smoothing for place in kind.places]
        self.constant: dict[str, Any] = {}
        if any(smoothing):
            self.constant["smoothing"] = torch.tensor(smoothing, device=device)
        if kind.kd is not None:
            self.constant["numbers"] = kind.numbers(device)
        if len(kind.places) < len(configs):
            self.constant["places"] = torch.tensor(kind.places, device=device)
        self.scheduled = any(kd.warmup_epochs or kd.stop_epoch for kd in kind.methods)
        self.loss_weights: tuple[Tensor, ...] = ()

    def labels_of(self, indices: Tensor) -> Tensor:
        """(batches, lanes, batch) → class numbers (batches, …, batch), to be taken by student."""
        return torch.stack([d.taught.labels[indices[:, lane]] for lane, d in self.data], dim=1)

    def of_lanes(self, shares: Tensor) -> Tensor:
        """Shares of classes (lanes, batch, classes) → those to be taken by student."""
        return torch.stack([shares[lane] for lane, _ in self.data])

    def known_of(self, indices: Tensor) -> dict[str, Tensor]:
        """(batches, lanes, batch) → the teachers' outputs (batches, …, width, batch).

        None are known of a kind whose teachers see every batch.
        """
        if self.kind.maps:
            return {}
        known = [self.outputs[name].at(indices[:, lane]) for lane, name in self.pairs]
        return self._compared(known, dim=1)

    def seen_of(self, seen: Mapping[Any, Outputs]) -> dict[str, Any]:
        """The outputs of live teachers (lanes, batch, width) → those of a batch's students."""
        live = [seen[checkpoints].at(lane) for lane, (checkpoints, *_) in self.pairs]
        return self._compared(live, dim=0)

    def _compared(self, teachers: Sequence[Outputs], dim: int) -> dict[str, Any]:
        """What the method compares of the teachers' outputs, in the layout of a stack."""
        if not teachers:
            return {}
        parts = {"logits": [outputs.logits for outputs in teachers]}
        if self.kind.width is not None:
            parts["hidden"] = [outputs.hidden for outputs in teachers]
        found: dict[str, Any] = {n: _batch_last(torch.stack(p, dim)) for n, p in parts.items()}
        if self.kind.maps:
            blocks = zip(*(outputs.maps for outputs in teachers), strict=True)
            found["maps"] = tuple(torch.stack(block, dim) for block in blocks)
        return found

    def own(self, labels: Tensor, teacher: Mapping[str, Any], epochs: float) -> dict[str, Any]:
        """What the loss of a batch takes.

        Args:
            labels: (…, batch) of the batch, or shares (…, batch, classes).
            teacher: (…, width, batch) of the batch; maps as they are.
            epochs: how many have passed, the batch in hand included.
        """
        if labels.ndim == 2:
            taken = self.label_rows.take(labels)
        else:
            taken = self.label_rows.take(_batch_last(labels)).mT
        found = self.constant | {"labels": taken}
        if self.teacher_rows is not None:
            take = self.teacher_rows.take
            found |= {n: take(part).mT for n, part in teacher.items() if n != "maps"}
            found["maps"] = tuple(map(take, teacher.get("maps", ())))
            found["loss_weights"] = self._weights(epochs)
        return found

    def _weights(self, epochs: float) -> tuple[Tensor, ...]:
        """Of labels and term, (students,) each."""
        if not self.loss_weights or self.scheduled:
            found = zip(*(loss_weights_at(kd, epochs) for kd in self.kind.methods), strict=True)
            self.loss_weights = tuple(torch.tensor(w, device=self.device) for w in found)
        return self.loss_weights


def _batch_last(values: Tensor) -> Tensor:
    """(…, batch, width) → (…, width, batch), the layout of a stack."""
    return values.mT.contiguous()
