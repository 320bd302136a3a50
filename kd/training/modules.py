"""The LightningModules: a teacher, a student alone, a student distilled from a frozen teacher."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kd.config.schema import Optim
from kd.data.module import CHUNK, Batch, Chunks
from kd.methods.base import Distillation, cross_entropy, loss_weights_at, weighted_loss
from kd.metrics import count_right
from kd.models.base import MNIST, Task
from kd.models.network import Dropout, Network, bare, weights_of
from kd.outputs import Outputs
from kd.training.book import TO_THE_END, Bookkeeper, Ends, Figures
from kd.training.rounding import rounding_as
from kd.training.teacher import FrozenTeacher
from kd.training.threads import Threads, is_free, same_bits, using
from kd.training.tracing import optimizer_step


def global_generators(device: torch.device) -> list[torch.Generator]:
    """Torch's own generators, which code that knows nothing of ours draws from."""
    own = [torch.default_generator]
    return own + (
        [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
    )


class Classifier(Bookkeeper):
    """Trains a network by :meth:`loss`, and logs loss and accuracy once per epoch.

    Args:
        network: its ``see`` takes images (batch, channels, height, width).
        optim: the optimiser and its schedule.
        ends: when the training ends.
        task: what the network is made for.
    """

    def __init__(
        self, network: nn.Module, optim: Optim, ends: Ends = TO_THE_END, task: Task = MNIST
    ) -> None:
        super().__init__([ends])
        self.optim = optim
        self.network: Any = network
        self.threads = Threads()
        self.compared = torch.Size()  # the shape of batches that may be computed with one thread
        self.follows: bool | None = None  # whether validation may follow the load too
        self.example_input_array = torch.zeros(1, *task.shape)  # for Lightning's table of layers

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] → logits (batch, classes)."""
        return self.network(images)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser and its schedule."""
        return self.optimizers_of(self.optim)

    def see(self, images: Tensor) -> Outputs:
        """The network's outputs, in float32 if it computes in mixed precision."""
        outputs = self.network.see(images)
        return outputs.each(Tensor.float) if outputs.logits.dtype == torch.bfloat16 else outputs

    def loss(self, student: Outputs, batch: Batch) -> Tensor:
        """The training loss of a batch, of the network's outputs for its images."""
        return cross_entropy(student.logits, batch.labels, self.optim.label_smoothing)

    def batches_per_epoch(self) -> int:
        """How many there are, handed over one by one or in chunks."""
        handed: Any = self.trainer.train_dataloader
        return len(handed.batches if isinstance(handed, Chunks) else handed)

    def batches(self) -> int:
        """Of the whole training."""
        steps = super().batches()  # has Lightning prepare what the other two ask for
        return steps // int(self.trainer.num_training_batches) * self.batches_per_epoch()

    def training_step(self, batch: Batch | Iterator[Batch], batch_index: int) -> Tensor | None:
        """The loss of a batch, for Lightning to take the step; or the steps of a chunk of them."""
        if isinstance(batch, Batch):
            return self.batch_loss(batch)
        first, threads = batch_index * CHUNK, torch.get_num_threads()
        with self.threads.piece(min(CHUNK, self.batches_per_epoch() - first)):
            self._steps(batch, first, threads)
        return None

    def _steps(self, batches: Iterator[Batch], first: int, threads: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        schedule: Any = self.lr_schedulers()
        (group,) = optimizer.param_groups
        for number, batch in enumerate(batches, first):
            self.on_train_batch_start(batch, number)
            if self.threads.free is None:
                self.threads.free = self._is_free_of_threads(batch, group["params"])
            # The smaller batch at an epoch's end may round otherwise than what was compared.
            alike = batch.images.shape == self.compared
            with rounding_as(threads, self) if alike else using(threads):
                self.batch_loss(batch).backward()
            gradients = [parameter.grad for parameter in group["params"]]
            for parameter in group["params"]:
                parameter.grad = None
            optimizer_step(optimizer, gradients)
            if schedule is not None:
                schedule.step()

    def _is_free_of_threads(self, batch: Batch, parameters: list[Tensor]) -> bool:
        """Whether one thread gives a batch the same bits.

        Other people's networks, and batch norm, keep something of every batch that they see.
        """
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1 or not isinstance(bare(self.network), Network):
            return False

        self.compared = batch.images.shape

        def step() -> list[Tensor]:
            with rounding_as(threads, self):
                loss = self.loss(self.see(batch.images), batch)
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            return [loss.detach(), *found]

        return is_free(step, self.generators())

    def batch_loss(self, batch: Batch) -> Tensor:
        """The loss of one batch, which the figures of the epoch are told of."""
        outputs = self.see(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):  # else losses have two digits
            loss = self.loss(outputs, batch)
        right = count_right(outputs.logits, batch.labels)
        self.note("train", loss.detach(), right, batch.labelled)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add a batch to the validation's sums; its loss is on the plain labels in every stage."""
        if self.threads.free and self.follows is None:
            mine = self.see(batch.images).logits
            with using(1):
                self.follows = same_bits([mine], [self.see(batch.images).logits])
        follows = self.follows and self.threads.chosen
        with using(self.threads.chosen) if follows else nullcontext():
            logits, labels = self.see(batch.images).logits, batch.labels
        self.note("val", cross_entropy(logits, labels), count_right(logits, labels), len(labels))

    def on_validation_epoch_end(self) -> None:
        """Log the validation's loss and accuracy."""
        super().on_validation_epoch_end()
        self._log("val", self.figures)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's learning rate, training loss and accuracy."""
        super().on_train_epoch_end()
        self._log("train", self.history[-1])

    def _log(self, part: str, figures: Figures) -> None:
        self.log_dict(
            {tag: v for tag, (v,) in figures.items() if v is not None and tag.startswith(part)}
        )
        self.log("step", float(self.current_epoch + 1))  # TensorBoard's x-axis counts epochs

    def state(self, student: int = 0) -> dict[str, Tensor]:
        """The network's ``state_dict``, a copy."""
        return weights_of(self.network)

    def generators(self) -> list[torch.Generator]:
        """Those of the dropout masks, of the training batches if these have some, and torch's."""
        batches = getattr(self.trainer.train_dataloader, "generators", list)
        dropouts = [layer for layer in self.network.modules() if isinstance(layer, Dropout)]
        drawing = [*batches(), *(layer.generator_on(self.device) for layer in dropouts)]
        return drawing + global_generators(self.device)


class TeacherModule(Classifier):
    """The teacher: trained on the labels."""


class StudentModule(Classifier):
    """The student alone: trained on the labels, the control of every distillation."""


class DistillModule(Classifier):
    """A student that learns from a frozen teacher and from the labels.

    The teacher stays outside the module's own parameters, so that neither the optimiser nor a
    checkpoint nor ``train()`` can reach it.

    Args:
        network: the student.
        optim: as in :class:`Classifier`.
        teacher: its ``see`` takes images.
        kd: the method and its numbers, of ``conf/kd``.
        teacher_outputs: the teacher's outputs for all samples of the pool, computed beforehand and
            looked up by the batch's indices; None runs the teacher on every batch.
        regressor: takes the student's hidden representation to the width of the teacher's, and
            is trained with it; None compares them as they are.
        ends, task: as in :class:`Classifier`.
    """

    def __init__(
        self,
        network: nn.Module,
        optim: Optim,
        teacher: nn.Module,
        kd: Distillation,
        teacher_outputs: Outputs | None = None,
        regressor: nn.Module | None = None,
        ends: Ends = TO_THE_END,
        task: Task = MNIST,
    ) -> None:
        super().__init__(network, optim, ends, task)
        self._outside = (FrozenTeacher(teacher),)  # a tuple hides it from torch's registration
        self.kd, self.teacher_outputs, self.regressor = kd, teacher_outputs, regressor
        self.loss_weights = kd.alpha, 1 - kd.alpha

    @property
    def teacher(self) -> FrozenTeacher:
        """The frozen teacher."""
        return self._outside[0]

    def on_fit_start(self) -> None:
        """Bring the teacher to the student's device."""
        self.teacher.to(self.device)

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Give labels and teacher the weights of this time of the training."""
        passed = self.current_epoch + (batch_index + 1) / self.batches_per_epoch()
        self.loss_weights = loss_weights_at(self.kd, passed)

    def loss(self, student: Outputs, batch: Batch) -> Tensor:
        """``alpha · CE + (1 − alpha) · term`` of the method."""
        if self.teacher_outputs is None:
            teacher = self.teacher.see(batch.images)
        else:
            teacher = self.teacher_outputs.at(batch.indices)
        if self.regressor is not None:
            student = student._replace(hidden=self.regressor(student.hidden))
        term = self.kd.term(student, teacher, batch.labels)
        smoothing = self.optim.label_smoothing
        return weighted_loss(student.logits, batch.labels, term, self.loss_weights, smoothing)
