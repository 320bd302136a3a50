"""Distillation losses: pure functions of tensors, one a published method.

All take float tensors, logits (batch, classes) or hidden representations (batch, width), return a
scalar and differentiate in the student alone. ``kd.methods`` makes trainings of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _log_softmax(logits: Tensor) -> Tensor:
    """Logarithm of the softmax over the last dimension, (batch, classes).

    Computed across the batch: torch's kernel is ten times faster there than along so few classes,
    and the logits of stacked students lie that way in memory.
    """
    return F.log_softmax(logits.transpose(-1, -2), dim=-2).transpose(-1, -2)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of −log softmax(logits)[label], in nats; of :func:`_log_softmax` for its speed.

    Args:
        logits: (batch, classes).
        labels: (batch,) class numbers; or (batch, classes) shares of each class, summing to 1 in
            an image with a label and to 0 in one without, which then does not count.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))  # log 2
    tensor(0.6931)
    """
    if labels.ndim == logits.ndim:
        return -(labels * _log_softmax(logits)).sum() / labels.sum()
    return -_log_softmax(logits).gather(-1, labels.unsqueeze(-1)).mean()


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, T: float, direction: str = "forward"
) -> Tensor:
    """T² times the KL divergence between the softened predictions of teacher and student.

    Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2. The divergence is summed over the
    classes and averaged over the batch; T² keeps its gradient's size while T changes, and for large
    T the loss tends to Σ(difference of centred logits)² / (2 · classes).

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant: no gradient flows into it.
        T: temperature, above 0.
        direction: ``forward`` is KL(teacher ‖ student), ``reverse`` KL(student ‖ teacher).

    Returns:
        a scalar, 0 where both softmaxes agree.

    Raises:
        ValueError: the shapes differ, or ``direction`` is neither of the two.

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> kd_loss(logits, logits, T=4.0)
    tensor(0.)
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"logits of student {tuple(student_logits.shape)} and teacher "
            f"{tuple(teacher_logits.shape)} differ in shape"
        )
    # Logarithms on both sides keep a class finite whose probability underflows to 0, and the
    # explicit sum has a batching rule under torch.func.vmap, which F.kl_div has not.
    student = _log_softmax(student_logits / T)
    teacher = _log_softmax(teacher_logits.detach() / T)
    if direction == "forward":
        divergence = teacher.exp() * (teacher - student)
    elif direction == "reverse":
        divergence = student.exp() * (student - teacher)
    else:
        raise ValueError(f"direction={direction!r}: must be 'forward' or 'reverse'")
    return divergence.sum(dim=-1).mean() * T**2


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    T: float,
    alpha: float,
    direction: str = "forward",
) -> Tensor:
    """``alpha · CE(student, labels) + (1 − alpha) · T² · KL(teacher_T ‖ student_T)``.

    Hinton, Vinyals & Dean 2015. alpha weighs the labels, 0 to 1; at 1 this is the plain
    cross-entropy, value and gradient. The other arguments are those of :func:`kd_loss`.

    >>> logits, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
    >>> distillation_loss(logits, logits, labels, T=2.0, alpha=0.5)  # half of log 2
    tensor(0.3466)
    """
    soft = kd_loss(student_logits, teacher_logits, T, direction)
    return alpha * cross_entropy(student_logits, labels) + (1 - alpha) * soft


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    T: float,
    alpha: float,
    beta: float,
) -> Tensor:
    """Decoupled distillation: ``T² · (alpha · target term + beta · non-target term)``.

    Zhao et al. 2022, arXiv:2203.08679, equation 7. The target term is the divergence of the two
    classes "the label" and "any other", the non-target term that of the softmax over the classes
    other than the label. With alpha = 1 and beta = 1 − p_teacher(label), a sample's loss is that of
    :func:`kd_loss`. The original subtracts 1000 from the label's logit and takes logarithms of
    probabilities, which is infinite for confident logits in float32; here both are logarithms
    throughout, and finite.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant.
        labels: (batch,) class numbers.
        T: temperature, above 0.
        alpha: weight of the target term, not that of the labels in a training.
        beta: weight of the non-target term.

    Returns:
        a scalar, 0 where both softmaxes agree.
    """
    classes = torch.arange(student_logits.shape[-1], device=labels.device)
    is_label = classes == labels.unsqueeze(-1)

    def decouple(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (the label, any other), and of the other classes among them."""
        scaled = logits / T
        among_all = _log_softmax(scaled)
        label = among_all.gather(-1, labels.unsqueeze(-1))
        others = scaled.masked_fill(is_label, -torch.inf)
        rest = others.logsumexp(-1, keepdim=True) - scaled.logsumexp(-1, keepdim=True)
        return torch.cat([label, rest], dim=-1), _log_softmax(others)

    def divergence(teacher: Tensor, student: Tensor) -> Tensor:
        return (teacher.exp() * (teacher - student)).sum(-1).mean()

    student_pair, student_others = decouple(student_logits)
    teacher_pair, teacher_others = decouple(teacher_logits.detach())
    zero = torch.zeros_like(student_others)  # the label's own column takes no part
    target = divergence(teacher_pair, student_pair)
    non_target = divergence(
        torch.where(is_label, zero, teacher_others), torch.where(is_label, zero, student_others)
    )
    return T**2 * (alpha * target + beta * non_target)


def dtkd_loss(student_logits: Tensor, teacher_logits: Tensor, T: float) -> Tensor:
    """Dynamic temperatures: the sharper network of the two gets the higher one, sample by sample.

    Wei & Bai 2024, arXiv:2404.12711, as its authors' code has it (a heuristic: they retract the
    derivation). With the largest logits x of the teacher and y of the student, the temperatures are
    ``2x / (x + y) · T`` and ``2y / (x + y) · T``, and the loss is their product times the KL
    divergence. Gradient flows through y as well. Equal maxima make it :func:`kd_loss`.

    The original is NaN where x + y = 0, and can be negative where x and y differ in sign, which
    makes a temperature negative. Here a sample whose temperatures are not between T / 1000 and
    1000 T in size takes T for both networks; and if the loss of the batch is negative, all samples
    do whose x and y differ in sign.

    Args:
        student_logits: (batch, classes); not only their differences count.
        teacher_logits: (batch, classes), a constant.
        T: temperature, above 0.

    Returns:
        a scalar, 0 or more.
    """
    # The gradient through the temperatures is a small difference of large numbers.
    exact = torch.float32 if student_logits.device.type == "mps" else torch.float64
    dtype = student_logits.dtype
    student_logits, teacher_logits = student_logits.to(exact), teacher_logits.detach().to(exact)
    x, y = (z.max(dim=-1, keepdim=True).values for z in (teacher_logits, student_logits))
    least = 5e-4 * (x + y).abs()
    bounded = torch.minimum(x.abs(), y.abs()).gt(least) & torch.maximum(x.abs(), y.abs()).lt(
        1e6 * least
    )

    def loss(dynamic: Tensor) -> Tensor:
        """With dynamic temperatures where ``dynamic``, with T elsewhere."""
        total = torch.where(dynamic, x + y, 2)
        student_T = 2 * torch.where(dynamic, y, 1) / total * T
        teacher_T = 2 * torch.where(dynamic, x, 1) / total * T
        student = _log_softmax(student_logits / student_T)
        teacher = _log_softmax(teacher_logits / teacher_T)
        divergence = (teacher.exp() * (teacher - student)).sum(dim=-1, keepdim=True)
        return (divergence * (teacher_T * student_T)).mean()

    original = loss(bounded)
    return torch.where(original >= 0, original, loss(bounded & (x * y > 0))).to(dtype)


def logit_std_kd_loss(student_logits: Tensor, teacher_logits: Tensor, T: float) -> Tensor:
    """:func:`kd_loss` of standardised logits: each row less its mean, over its standard deviation.

    Sun et al. 2024, arXiv:2403.01427, algorithm 1, as its authors' code has it: the unbiased
    standard deviation plus 1e-7, the temperature applied afterwards, T² kept.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant.
        T: temperature, above 0.

    Returns:
        a scalar, 0 where the teacher's logits are a rising linear function of the student's.
    """

    def standardise(logits: Tensor) -> Tensor:
        return (logits - logits.mean(-1, keepdim=True)) / (1e-7 + logits.std(-1, keepdim=True))

    return kd_loss(standardise(student_logits), standardise(teacher_logits.detach()), T)


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, T: float, beta: float, gamma: float
) -> Tensor:
    """``T² · (beta · (1 − correlation in a sample) + gamma · (1 − correlation in a class))``.

    Huang et al. 2022, arXiv:2205.10536, equations 6 to 10: Pearson correlations of the softmaxes,
    row by row between classes and column by column over the batch, each averaged.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant.
        T: temperature, above 0.
        beta: weight of the correlation between a sample's classes.
        gamma: weight of the correlation within a class, over the batch.

    Returns:
        a scalar, 0 (up to 1e-8 in the correlations' denominators) where both softmaxes agree.
    """

    def distance(a: Tensor, b: Tensor, dim: int) -> Tensor:
        """1 − the mean Pearson correlation along ``dim``."""
        a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
        norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
        return 1 - ((a * b).sum(dim) / (norms + 1e-8)).mean()

    student = _log_softmax(student_logits / T).exp()
    teacher = _log_softmax(teacher_logits.detach() / T).exp()
    return T**2 * (beta * distance(student, teacher, -1) + gamma * distance(student, teacher, -2))


def _distances(features: Tensor) -> Tensor:
    """Distances between the rows (batch, batch), in units of their mean; 0 on the diagonal."""
    squares = features.square().sum(-1)
    squared = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * features @ features.mT
    same = torch.eye(len(features), dtype=torch.bool, device=features.device)
    distances = squared.clamp(min=1e-12).sqrt().masked_fill(same, 0)
    pairs = max(1, len(features) * (len(features) - 1))
    mean = distances.sum() / pairs
    return distances / torch.where(mean > 0, mean, 1)


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber distance between the pairwise distances of student and teacher, each over its mean.

    Park et al. 2019, arXiv:1904.05068, equations 4 to 6, as its authors' code has it: averaged over
    all batch² pairs, the diagonal's zeros included.

    Args:
        student: (batch, width) hidden representations; widths of the two may differ.
        teacher: (batch, width), a constant.

    Returns:
        a scalar, unchanged by scaling, rotating and shifting either; 0 for fewer than 3 samples.
    """
    _check_batches(student, teacher)
    return F.smooth_l1_loss(_distances(student.flatten(1)), _distances(teacher.detach().flatten(1)))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber distance between the cosines of the angles that triples of samples make.

    Park et al. 2019, arXiv:1904.05068, equations 7 and 8, as its authors' code has it: averaged
    over all batch³ triples, the degenerate ones included. Takes memory of batch³.

    Args:
        student: (batch, width) hidden representations; widths of the two may differ.
        teacher: (batch, width), a constant.

    Returns:
        a scalar, unchanged by scaling, rotating and shifting either; 0 for fewer than 3 samples.
    """
    _check_batches(student, teacher)

    def cosines(features: Tensor) -> Tensor:
        # A stack's features lie across the batch, and so would the directions: twice the time.
        features = features.contiguous()
        directions = F.normalize(features.unsqueeze(0) - features.unsqueeze(1), dim=2)
        return directions @ directions.mT

    return F.smooth_l1_loss(cosines(student.flatten(1)), cosines(teacher.detach().flatten(1)))


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the batch's similarity matrices, rows of L2 norm 1.

    Tung & Mori 2019, arXiv:1907.09682, equations 1 to 4.

    Args:
        student: (batch, width) hidden representations; widths of the two may differ.
        teacher: (batch, width), a constant.

    Returns:
        a scalar, unchanged by scaling and rotating either.
    """
    _check_batches(student, teacher)

    def similarities(features: Tensor) -> Tensor:
        return F.normalize(features @ features.mT, dim=1)

    return F.mse_loss(similarities(student.flatten(1)), similarities(teacher.detach().flatten(1)))


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the probabilities with which one sample of the batch picks another.

    Passalis & Tefas 2018, arXiv:1803.10837, equations 6 to 8 with the cosine kernel, as its
    authors' code has it: the mean over batch² entries.

    Args:
        student: (batch, width) hidden representations; widths of the two may differ.
        teacher: (batch, width), a constant.

    Returns:
        a scalar, unchanged by scaling and rotating either.
    """
    _check_batches(student, teacher)

    def probabilities(features: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        directions = features / (norms + 1e-7)
        kernel = (directions @ directions.mT + 1) / 2
        return kernel / kernel.sum(dim=1, keepdim=True)

    picks, target = probabilities(student.flatten(1)), probabilities(teacher.detach().flatten(1))
    return (target * ((target + 1e-7) / (picks + 1e-7)).log()).mean()


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation congruence as RepDistiller has it: products of consecutive samples' differences.

    After Peng et al. 2019, arXiv:1904.01802, whose own loss compares kernel matrices; the code that
    comparisons use multiplies |student − teacher| of each sample with that of the next one, sums
    over the width and averages. It depends on the order of the batch.

    Args:
        student: (batch, width) hidden representations.
        teacher: (batch, width), of the same width, a constant.

    Returns:
        a scalar; 0 where both agree, and for a single sample.
    """
    _check_batches(student, teacher)
    difference = (student - teacher.detach()).flatten(1).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of hidden representations, over samples and units.

    Romero et al. 2015, arXiv:1412.6550, equation 3, without its factor 1/2, as code has it.

    Args:
        student: (batch, width) hidden representations, or what a regressor makes of them.
        teacher: (batch, width), of the same width, a constant.
    """
    _check_batches(student, teacher, widths=True)
    return F.mse_loss(student, teacher.detach())


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − the mean cosine between the hidden representations of student and teacher.

    PyTorch's knowledge distillation tutorial: ``CosineEmbeddingLoss`` with target 1, which adds
    1e-12 to each squared norm.

    Args:
        student: (batch, width) hidden representations.
        teacher: (batch, width), of the same width, a constant.

    Returns:
        a scalar from 0 to 2.
    """
    _check_batches(student, teacher, widths=True)
    student, teacher = student.flatten(1), teacher.detach().flatten(1)
    squares = (student.square().sum(1) + 1e-12) * (teacher.square().sum(1) + 1e-12)
    return (1 - (student * teacher).sum(1) / squares.sqrt()).mean()


def at_loss(student: Tensor, teacher: Tensor, p: int = 2) -> Tensor:
    """Mean squared difference of attention maps: channel means of features^p, of L2 norm 1.

    Zagoruyko & Komodakis 2017, arXiv:1612.03928, as its authors' code has it; the paper's equation
    2 takes the norm of the difference. Of two heights the larger map is first pooled to the other.

    Args:
        student: (batch, channels, height, width) feature maps; channels of the two may differ.
        teacher: (batch, channels, height, width), a constant.
        p: the power; odd ones keep the sign.

    Raises:
        ValueError: one of them is not a feature map.
    """
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(
            "attention transfer needs feature maps (batch, channels, height, width), not "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    _check_batches(student, teacher)
    side = min(student.shape[2], teacher.shape[2])

    def attention(maps: Tensor) -> Tensor:
        if maps.shape[2] > side:
            maps = F.adaptive_avg_pool2d(maps, (side, side))
        return F.normalize(maps.pow(p).mean(1).flatten(1))

    return F.mse_loss(attention(student), attention(teacher.detach()))


def _check_batches(student: Tensor, teacher: Tensor, widths: bool = False) -> None:
    if len(student) != len(teacher) or (widths and student.shape != teacher.shape):
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} do not fit"
        )
