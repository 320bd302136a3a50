"""The methods: which losses a student learns by, of what it and its teacher see.

Every method enters a training in one form, ``alpha · CE + (1 − alpha) · term``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kd.config.schema import (
    AT,
    DIST,
    DKD,
    DTKD,
    RKD,
    Distillation,
    Hinton,
    LogitStd,
    OfHidden,
)
from kd.methods.losses import (
    at_loss,
    cc_loss,
    cosine_loss,
    cross_entropy,
    dist_loss,
    dkd_loss,
    dtkd_loss,
    hint_loss,
    kd_loss,
    logit_std_kd_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    sp_loss,
)
from kd.models.network import Seen

Term = Callable[[Seen, Seen, Tensor, Any], Tensor]


def _hinton(student: Seen, teacher: Seen, labels: Tensor, kd: Hinton) -> Tensor:
    return kd_loss(student.logits, teacher.logits, kd.T, kd.direction)


def _dkd(student: Seen, teacher: Seen, labels: Tensor, kd: DKD) -> Tensor:
    if labels.ndim == 2:  # shares: the largest counts, and the teacher's class where there is none
        known = labels.sum(-1, keepdim=True) > 0
        labels = torch.where(known, labels, teacher.logits).max(dim=-1).indices
    weights = kd.target_weight, kd.nontarget_weight
    return dkd_loss(student.logits, teacher.logits, labels, kd.T, *weights)


def _dtkd(student: Seen, teacher: Seen, labels: Tensor, kd: DTKD) -> Tensor:
    dynamic = dtkd_loss(student.logits, teacher.logits, kd.T)
    static = kd_loss(student.logits, teacher.logits, kd.T)
    return kd.dynamic_weight * dynamic + kd.static_weight * static


def _logit_std(student: Seen, teacher: Seen, labels: Tensor, kd: LogitStd) -> Tensor:
    return kd.term_weight * logit_std_kd_loss(student.logits, teacher.logits, kd.T)


def _dist(student: Seen, teacher: Seen, labels: Tensor, kd: DIST) -> Tensor:
    weights = kd.between_weight, kd.within_weight
    return dist_loss(student.logits, teacher.logits, kd.T, *weights)


def _rkd(student: Seen, teacher: Seen, labels: Tensor, kd: RKD) -> Tensor:
    distance = rkd_distance_loss(student.hidden, teacher.hidden)
    angle = rkd_angle_loss(student.hidden, teacher.hidden)
    soft = kd_loss(student.logits, teacher.logits, kd.T)
    return kd.distance_weight * distance + kd.angle_weight * angle + kd.kd_weight * soft


def _of_hidden(loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    """The term of a loss on hidden representations that has one weight."""

    def term(student: Seen, teacher: Seen, labels: Tensor, kd: OfHidden) -> Tensor:
        return kd.term_weight * loss(student.hidden, teacher.hidden)

    return term


def _at(student: Seen, teacher: Seen, labels: Tensor, kd: AT) -> Tensor:
    pairs = zip(student.maps, teacher.maps, strict=True)
    return kd.term_weight * torch.stack([at_loss(ours, theirs) for ours, theirs in pairs]).sum()


# kd.method → its term, a function of (student, teacher, labels, settings of conf/kd).
TERMS: dict[str, Term] = {
    "hinton": _hinton,
    "dkd": _dkd,
    "dtkd": _dtkd,
    "logit_std": _logit_std,
    "dist": _dist,
    "rkd": _rkd,
    "sp": _of_hidden(sp_loss),
    "pkt": _of_hidden(pkt_loss),
    "cc": _of_hidden(cc_loss),
    "hint": _of_hidden(hint_loss),
    "cosine": _of_hidden(cosine_loss),
    "at": _at,
    "function_matching": _hinton,
}


def weights_at(kd: Distillation, epochs: float) -> tuple[float, float]:
    """The weights of the labels and of the term at a time of the training.

    alpha and 1 − alpha; while the method warms up, the term's grows to that (Zhao et al. 2022);
    after ``kd.stop_epoch`` the labels teach alone (Cho & Hariharan 2019, arXiv:1910.01348).

    Args:
        kd: the method and its numbers.
        epochs: how many have passed, the batch in hand included.
    """
    if kd.stop_epoch is not None and epochs > kd.stop_epoch:
        return 1.0, 0.0
    warmth = min(1.0, epochs / kd.warmup_epochs) if kd.warmup_epochs else 1.0
    return kd.alpha, (1 - kd.alpha) * warmth


def method_loss(
    student: Seen,
    teacher: Seen,
    labels: Tensor,
    kd: Distillation,
    weights: tuple[float | Tensor, float | Tensor],
) -> Tensor:
    """The training loss of a distilled student: cross-entropy and the chosen method's term.

    Args:
        student: what the student makes of a batch.
        teacher: what the teacher makes of it, constants.
        labels: (batch,) class numbers, or shares as in :func:`cross_entropy`.
        kd: the method and its numbers, of ``conf/kd``.
        weights: of the labels and of the term; see :func:`weights_at`.
    """
    own, taught = weights
    term = TERMS[kd.method](student, teacher, labels, kd)
    return own * cross_entropy(student.logits, labels) + taught * term
