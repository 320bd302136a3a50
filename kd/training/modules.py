"""The LightningModules: a teacher, a student alone, a student distilled from a frozen teacher."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.adam import adam as adam_function
from torch.optim.lr_scheduler import CosineAnnealingLR

from kd.config.schema import Distillation, Optim
from kd.data.module import Batch
from kd.methods.base import method_loss, weights_at
from kd.methods.losses import cross_entropy
from kd.metrics import count_right
from kd.models.network import Seen


def make_adam(parameters: Iterable[nn.Parameter], optim: Optim) -> torch.optim.Adam:
    """The optimiser of every training, in one pass over the parameters."""
    return torch.optim.Adam(parameters, lr=optim.lr, eps=optim.eps, fused=True)


@torch.no_grad()
def adam_step(adam: torch.optim.Adam, gradients: list[Tensor]) -> None:
    """A step of the optimiser by gradients in the order of its parameters.

    Straight by the function that ``adam.step()`` calls after having spent as much time again.
    """
    (group,) = adam.param_groups
    parameters = group["params"]
    if not adam.state:  # which the first step makes
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
        adam.zero_grad()
        return
    states = [adam.state[parameter] for parameter in parameters]
    means, squares, steps = ([s[k] for s in states] for k in ("exp_avg", "exp_avg_sq", "step"))
    names = ("fused", "amsgrad", "lr", "weight_decay", "eps", "maximize")
    numbers = {name: group[name] for name in names}
    beta1, beta2 = group["betas"]
    adam_function(
        parameters, gradients, means, squares, [], steps, beta1=beta1, beta2=beta2, **numbers
    )


class Classifier(LightningModule):
    """Trains a network by :meth:`loss`, and logs loss and accuracy once an epoch.

    Args:
        network: its ``see`` takes images (batch, 1, 28, 28).
        optim: learning rate and its schedule.
    """

    def __init__(self, network: nn.Module, optim: Optim) -> None:
        super().__init__()
        self.network, self.optim = network, optim
        # Sums over an epoch of loss, correct answers and samples. Adding to them costs a few µs a
        # step; a logging call or a metric object a step would be felt beside so small a network.
        self.register_buffer("train_sums", torch.zeros(3), persistent=False)
        self.register_buffer("val_sums", torch.zeros(3), persistent=False)

    def loss(self, seen: Seen, batch: Batch) -> Tensor:
        """The training loss of a batch, of what the network makes of its images."""
        _, labels, _ = batch
        return cross_entropy(seen.logits, labels)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of one batch."""
        images, labels, indices = batch
        seen = self.network.see(images)
        loss = self.loss(seen, batch)
        right = count_right(seen.logits, labels)
        self._add(self.train_sums, loss.detach() * len(indices), right, len(indices))
        return loss

    def on_train_epoch_start(self) -> None:
        """Log the learning rate that the epoch begins with."""
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training loss and accuracy."""
        self._log_epoch("train", self.train_sums)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add one batch to the validation's sums; its loss is on the labels in every stage."""
        images, labels, _ = batch
        logits = self.network(images)
        loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        self._add(self.val_sums, loss_sum, count_right(logits, labels), len(labels))

    def on_validation_epoch_end(self) -> None:
        """Log the validation's loss and accuracy."""
        self._log_epoch("val", self.val_sums)

    def _add(self, sums: Tensor, loss_sum: Tensor, right: Tensor, samples: int) -> None:
        sums[0] += loss_sum
        sums[1] += right
        sums[2] += samples

    def _log_epoch(self, part: str, sums: Tensor) -> None:
        loss, correct, samples = sums.tolist()
        self.log_dict({f"{part}/loss": loss / samples, f"{part}/acc": correct / samples})
        self.log("step", float(self.current_epoch + 1))  # TensorBoard's x-axis counts epochs
        sums.zero_()

    def configure_optimizers(self) -> dict:
        """Adam over the module's parameters; a cosine schedule falls to 0 a batch at a time."""
        adam = make_adam(self.parameters(), self.optim)
        if self.optim.schedule == "constant":
            return {"optimizer": adam}
        steps = self.trainer.max_epochs * len(self.trainer.datamodule.train_dataloader())
        schedule = CosineAnnealingLR(adam, T_max=steps)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TeacherModule(Classifier):
    """The teacher: trained on the labels."""


class StudentModule(Classifier):
    """The student alone: trained on the labels, the control of every distillation."""


class FrozenTeacher(nn.Module):
    """A network that neither learns nor leaves evaluation mode.

    Args:
        network: its ``see`` takes images; its parameters lose ``requires_grad``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def see(self, images: Tensor) -> Seen:
        """(batch, 1, 28, 28) → logits and the representations below them, without gradient."""
        return self.network.see(images)


class DistillModule(Classifier):
    """A student that learns from a frozen teacher and from the labels.

    The teacher stays outside the module's own parameters, so that neither the optimiser nor a
    checkpoint nor ``train()`` can reach it.

    Args:
        network: the student.
        optim: as in :class:`Classifier`.
        teacher: its ``see`` takes images.
        kd: the method and its numbers, of ``conf/kd``.
        taught: what the teacher makes of all samples of the pool, computed beforehand and looked
            up by the batch's indices; None runs the teacher on every batch.
        regressor: takes the student's hidden representation to the width of the teacher's, and
            is trained with it; None compares them as they are.
    """

    def __init__(
        self,
        network: nn.Module,
        optim: Optim,
        teacher: nn.Module,
        kd: Distillation,
        taught: Seen | None = None,
        regressor: nn.Module | None = None,
    ) -> None:
        super().__init__(network, optim)
        self._outside = (FrozenTeacher(teacher),)  # a tuple hides it from torch's registration
        self.kd, self.taught, self.regressor = kd, taught, regressor
        self.weights = kd.alpha, 1 - kd.alpha

    @property
    def teacher(self) -> FrozenTeacher:
        """The frozen teacher."""
        return self._outside[0]

    def on_fit_start(self) -> None:
        """Bring the teacher to the student's device."""
        self.teacher.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Give labels and teacher the weights of this time of the training."""
        passed = self.current_epoch + (batch_index + 1) / self.trainer.num_training_batches
        self.weights = weights_at(self.kd, passed)

    def loss(self, seen: Seen, batch: Batch) -> Tensor:
        """``alpha · CE + (1 − alpha) · term`` of the method."""
        images, labels, indices = batch
        if self.taught is None:
            teacher = self.teacher.see(images)
        else:
            logits, hidden, _ = self.taught
            teacher = Seen(logits[indices], hidden[indices] if self.kd.needs_hidden else None)
        if self.regressor is not None:
            seen = seen._replace(hidden=self.regressor(seen.hidden))
        return method_loss(seen, teacher, labels, self.kd, self.weights)
