"""Distillation losses: pure functions of tensors.

Logits are [N, K], or dense [N, K, H, W], where every pixel counts as a sample. `teacher` never receives a gradient. Half
precision is widened to float32 before anything is computed. Equations and their sources: DIST 2205.10536, KD 1503.02531,
Factor Transfer 1802.04977, attention transfer 1612.03928, ATSC 2406.08528, DSKD 2202.07846, DKD 2203.08679, RKD 1904.05068,
logit standardisation 2403.01427.

Raises:
    ValueError: From every function: shapes that do not pair up, which broadcasting would hide; logits without classes; nothing
        to average over; a temperature that is not a finite number above 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

DIST_EPSILON = 1e-8
"""Added to the product of the two norms of a correlation, as the authors of DIST released it, or the least of each norm."""

DEGENERATE = 1e-6
"""A vector whose centred norm is below this share of its norm is constant: its direction is rounding noise."""

NORM_FLOOR = 1e-6
"""Smallest norm by which `factor_l1` divides; bounds the gradient of an all-zero map."""

STANDARDISATION_FLOOR = 1e-7
"""Added to the standard deviation of a sample's logits, as the authors of logit standardisation released it."""

CHANNEL_FLOOR = 1e-6
"""Added to the standard deviation of a channel, as the authors of PKD released it."""

DISTANCE_FLOOR = 1e-12
"""Smallest squared distance of two embeddings."""

Activation = Literal["softmax", "sigmoid"]
"""From logits to probabilities: of one of K classes, or of K independent ones as in one-stage detection."""

Denominator = Literal["product", "norms"]
"""Guard against a division by 0: a constant added to the product of the norms, or a floor under each norm."""


def kd(student: Tensor, teacher: Tensor, *, temperature: float, valid: Tensor | None = None) -> Tensor:
    """Return the Kullback-Leibler divergence of softened predictions, times temperature².

    Summed over classes, averaged over samples. The factor keeps the gradient's size independent of the temperature.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the softmax.
        valid: Which samples or pixels count, bool [N] or [N, H, W]; default all.

    Source:
        Hinton et al., 1503.02531, section 2; HobbitLong/RepDistiller b84f547, distiller_zoo/KD.py.
    """
    _require_same_shape(student, teacher, "logits")
    return _compute_divergence(_flatten_samples(student, valid), _flatten_samples(teacher, valid), temperature)


def kd_cohort(student: Tensor, teachers: Tensor, *, temperature: float) -> Tensor:
    """Return `kd` of the student with each of M teachers, [M], in one pass.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teachers: Logits, [M, N, K] or [M, N, K, H, W].
        temperature: Divides all logits before the softmax.
    """
    _require_same_shape_each(student, teachers)
    return _compute_divergence(_flatten_samples(student), _flatten_samples(teachers, axis=2), temperature)


def standardise(logits: Tensor, *, axis: int = 1) -> Tensor:
    """Return logits with mean 0 and standard deviation 1 over the classes of each sample, [N, K, ...] -> [N, K, ...].

    A divergence of standardised logits asks for the teacher's order and relations, not for the size of its logits.

    Args:
        logits: [N, K, ...], or of a cohort [M, N, K, ...].
        axis: Where the classes are.

    Source:
        2403.01427; sunshangquan/logit-standardization-KD, whose floor under the deviation this is.
    """
    wide = _widen(logits)
    deviation, mean = torch.std_mean(wide, dim=axis, keepdim=True)
    return (wide - mean) / (deviation + STANDARDISATION_FLOOR)


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the two parts of the divergence, of the labelled class against the rest and among the rest, [] each.

    Each is summed over classes, averaged over samples and multiplied by temperature².

    Args:
        student: Logits, [N, K], K at least 3.
        teacher: Logits of the same shape.
        labels: [N].
        temperature: Divides both logits before the softmax.

    Raises:
        ValueError: There are fewer than three classes, so that there is nothing among the rest.

    Source:
        2203.08679, equations 5 to 7; megvii-research/mdistiller, distillers/DKD.py.
    """
    _require_same_shape(student, teacher, "logits")
    if student.dim() != 2 or student.shape[1] < 3:
        raise ValueError(f"logits have shape {list(student.shape)}; decoupling needs [N, K] with at least 3 classes")
    _refuse_temperature(temperature)
    target = F.one_hot(labels, student.shape[1]).bool()
    of_student, of_teacher = _widen(student) / temperature, _widen(teacher).detach() / temperature
    of_target = _compute_divergence(_pool_rest(of_student, target), _pool_rest(of_teacher, target), 1.0)
    of_rest = _compute_divergence(of_student[~target].view(len(target), -1), of_teacher[~target].view(len(target), -1), 1.0)
    return of_target * temperature**2, of_rest * temperature**2


def _pool_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Return logits of the labelled class and of all the rest as one, [N, K] -> [N, 2].

    Args:
        logits: [N, K].
        target: Which class is the labelled one, bool [N, K].
    """
    rest = logits.masked_fill(target, -math.inf).logsumexp(dim=1)
    return torch.stack([logits[target], rest], dim=1)


def rkd(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far distances between samples, and angles among them, are from the teacher's, [] each.

    Distances are divided by their mean over the batch; both differences are measured by the Huber loss.

    Args:
        student: Embeddings, [N, d].
        teacher: Embeddings, [N, D]; only the number of samples must agree.

    Raises:
        ValueError: The samples do not pair up, or there are fewer than three, among which there is no angle.

    Source:
        1904.05068; HobbitLong/RepDistiller b84f547, distiller_zoo/RKD.py.
    """
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher) or len(student) < 3:
        raise ValueError(
            f"embeddings have shapes {list(student.shape)} and {list(teacher.shape)}; give [N, d] and [N, D] with N at least 3"
        )
    of_student, of_teacher = _widen(student), _widen(teacher).detach()
    distance = F.smooth_l1_loss(_compare_distances(of_student), _compare_distances(of_teacher))
    angle = F.smooth_l1_loss(_compute_angles(of_student), _compute_angles(of_teacher))
    return distance, angle


def _compare_distances(embeddings: Tensor) -> Tensor:
    """Return distances between all pairs over their mean, [N, d] -> [N, N]."""
    squares = (embeddings.unsqueeze(0) - embeddings.unsqueeze(1)).square().sum(dim=2)
    others = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    distances = torch.where(others, squares.clamp_min(DISTANCE_FLOOR).sqrt(), 0)  # a square root has no gradient at 0
    return distances / distances[others].mean()


def _compute_angles(embeddings: Tensor) -> Tensor:
    """Return the cosine of the angle at each sample between each two others, [N, d] -> [N, N, N]."""
    differences = embeddings.unsqueeze(0) - embeddings.unsqueeze(1)  # [N, N, d]
    directions = F.normalize(differences, dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau2: bool = True,
    activation: Activation = "softmax",
    valid: Tensor | None = None,
    guard: bool = True,
    denominator: Denominator = "product",
) -> Tensor:
    """Return the DIST loss: beta × inter-class plus gamma × intra-class, times temperature².

    Args:
        student: Logits, [N, K] or [N, K, H, W]. Of a detector, the output of the classification convolution as it is: anchors
            and classes together are one long class axis.
        teacher: Logits of the same shape.
        temperature: Divides both logits before the activation.
        beta: Weight of the inter-class relation.
        gamma: Weight of the intra-class relation.
        tau2: Multiply by temperature².
        activation: `softmax`, or `sigmoid` as released for one-stage detection.
        valid: Which samples or pixels count, bool [N] or [N, H, W]; default all, as the authors do with ignored pixels.
        guard: Let constant rows and columns pass no gradient; see `dist_relations`.
        denominator: `product`, as the authors, or `norms`, as torchdistill; they part where predictions are confident and
            classes many.

    Source:
        2205.10536; hunto/image_classification_sota 6f7a70a, lib/models/losses/dist_kd.py. The factor temperature² is the
        released code's; the paper's listing does not have it. Sigmoid: hunto/MasKD b5af34f, mmrazor/models/losses/dist_kd.py.
        Floors under the norms: yoshitomo-matsubara/torchdistill 3e4373c.
    """
    inter, intra = dist_relations(
        student, teacher, temperature=temperature, activation=activation, valid=valid, guard=guard, denominator=denominator
    )
    return (beta * inter + gamma * intra) * (temperature**2 if tau2 else 1.0)


def dist_relations(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    activation: Activation = "softmax",
    valid: Tensor | None = None,
    guard: bool = True,
    denominator: Denominator = "product",
) -> tuple[Tensor, Tensor]:
    """Return one minus the mean correlation of predictions over classes (inter) and over samples (intra), [] each.

    A row or column that is constant but for rounding has correlation 0 and passes no gradient. The released code
    (`guard=False`) agrees on rows that are exactly constant, with a gradient of up to 1e6, and correlates the rounding of the
    others. With a single sample every column is constant.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the activation.
        activation: `softmax` or `sigmoid`.
        valid: Which samples or pixels count, bool [N] or [N, H, W]; default all.
        guard: Let constant rows and columns pass no gradient.
        denominator: `product` or `norms`.
    """
    _require_same_shape(student, teacher, "logits")
    of_student = _compute_probabilities(_flatten_samples(student, valid), temperature, activation)  # [N, K]
    of_teacher = _compute_probabilities(_flatten_samples(teacher, valid).detach(), temperature, activation)
    return _compute_relations(of_student, of_teacher, guard=guard, denominator=denominator)


def dist_cohort(
    student: Tensor,
    teachers: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau2: bool = True,
    activation: Activation = "softmax",
) -> Tensor:
    """Return `dist` of the student with each of M teachers, [M], in one pass.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teachers: Logits, [M, N, K] or [M, N, K, H, W].
        temperature: Divides all logits before the activation.
        beta: Weight of the inter-class relation.
        gamma: Weight of the intra-class relation.
        tau2: Multiply by temperature².
        activation: `softmax` or `sigmoid`.
    """
    _require_same_shape_each(student, teachers)
    of_student = _compute_probabilities(_flatten_samples(student), temperature, activation)  # [N, K]
    of_teachers = _compute_probabilities(_flatten_samples(teachers, axis=2).detach(), temperature, activation)  # [M, N, K]
    inter, intra = _compute_relations(of_student, of_teachers, guard=True, denominator="product")
    return (beta * inter + gamma * intra) * (temperature**2 if tau2 else 1.0)


def cwd(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return the divergence of where each class is answered, times temperature², averaged over samples and classes, [].

    Each map of a class is a distribution over its positions.

    Args:
        student: Logits, [N, K, h, w].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the softmax over positions.

    Raises:
        ValueError: The logits have no positions.

    Source:
        2011.13256, equations 3 and 4; irfanICMLL/TorchDistiller 78bac7c, SemSeg-distill; logarithm and softmax
        are one step, so that positions that underflow pass no infinity.
    """
    _require_same_shape(student, teacher, "logits")
    if student.dim() != 4:
        raise ValueError(f"logits have shape {list(student.shape)}; positions need [N, K, h, w]")
    _refuse_empty(student, "logits")
    return _compute_divergence(_widen(student).flatten(2).flatten(0, 1), _widen(teacher).flatten(2).flatten(0, 1), temperature)


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the squared difference of two standardised feature maps, averaged over all elements, [].

    Each channel has mean 0 and deviation 1 over samples and positions, so this is one minus Pearson's correlation.

    Args:
        student: Feature map, [B, c, h, w].
        teacher: Feature map of the same shape.

    Source:
        2207.02039; open-mmlab/mmrazor 90c7af1, mmrazor/models/losses/pkd_loss.py.
    """
    _require_same_shape(student, teacher, "features")
    _refuse_empty(student, "features")
    return F.mse_loss(_standardise_channels(student), _standardise_channels(teacher.detach())) / 2


def _standardise_channels(features: Tensor) -> Tensor:
    """Return each channel with mean 0 and deviation 1 over all else, [B, c, ...]."""
    wide = _widen(features)
    axes = [axis for axis in range(wide.dim()) if axis != 1]
    deviation, mean = torch.std_mean(wide, dim=axes, keepdim=True)
    return (wide - mean) / (deviation + CHANNEL_FLOOR)


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of two feature maps of one shape [B, ...], averaged over all elements, [].

    Source:
        FitNets 1412.6550; HobbitLong/RepDistiller b84f547, distiller_zoo/FitNet.py.
    """
    _require_same_shape(student, teacher, "features")
    _refuse_empty(student, "features")
    return F.mse_loss(_widen(student), _widen(teacher).detach())


def factor_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the L1 distance of two feature maps, each scaled to unit L2 norm per sample, averaged over all elements.

    Args:
        student: Feature map after the translator, [B, c, h, w].
        teacher: Feature map of the same shape.

    Source:
        Factor Transfer 1802.04977; Jangho-Kim/Factor-Transfer-pytorch 19cce26, train_student.py.
    """
    _require_same_shape(student, teacher, "features")
    _refuse_empty(student, "features")
    of_student = F.normalize(_widen(student).flatten(1), dim=1, eps=NORM_FLOOR)
    of_teacher = F.normalize(_widen(teacher).detach().flatten(1), dim=1, eps=NORM_FLOOR)
    return F.l1_loss(of_student, of_teacher)


def attention_map(features: Tensor) -> Tensor:
    """Return where a feature map is active: the mean of squares over channels, scaled to unit L2 norm per sample.

    Args:
        features: Feature map, [B, c, h, w].

    Returns:
        [B, h·w], the pixels row by row; zeros where the whole map is zero.

    Source:
        Attention transfer 1612.03928; szagoruyko/attention-transfer 893df54, utils.py, with its smallest norm 1e-12.
    """
    energy = _widen(features).square().mean(dim=1).flatten(1)  # [B, h·w]
    return F.normalize(energy, dim=1, eps=NORM_FLOOR**2)  # squares, hence the floor squared


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of two attention maps, averaged over samples and pixels.

    Args:
        student: Feature map, [B, c, h, w].
        teacher: Feature map, [B, C, h, w]; only the number of channels may differ.

    Source:
        Attention transfer 1612.03928; szagoruyko/attention-transfer 893df54, utils.py: a mean, not the norm of the paper.
    """
    of_student, of_teacher = attention_map(student), attention_map(teacher).detach()
    _require_same_shape(of_student, of_teacher, "attention maps")
    _refuse_empty(of_student, "attention maps")
    return F.mse_loss(of_student, of_teacher)


def drift(parameters: Iterable[Tensor], anchors: Iterable[Tensor]) -> Tensor:
    """Return the sum of squared differences between parameters and where they started, [].

    Args:
        parameters: Tensors that move and receive the gradient.
        anchors: Tensors of the same shapes, in the same order, that do not.

    Raises:
        ValueError: The two do not pair up, or there are none.

    Source:
        ATSC 2406.08528; random2314235/ATSC 8bde1b2: a sum, not a mean.
    """
    pairs = list(zip(parameters, anchors, strict=True))
    if not pairs:
        raise ValueError("drift of no parameters is not defined; give at least one")
    for here, there in pairs:
        _require_same_shape(here, there, "a parameter and its anchor")
    total: Tensor = torch.stack([(_widen(here) - _widen(there).detach()).square().sum() for here, there in pairs]).sum()
    return total


def softmax_weights(losses: Sequence[Tensor | float] | Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return weights that sum to one, larger for larger losses, through which no gradient flows.

    Args:
        losses: Scalars, or one tensor [L].
        temperature: Divides the losses before the softmax; larger is more even.

    Raises:
        ValueError: There are no losses, they are no scalars, or the temperature is not above 0.

    Source:
        DSKD 2202.07846 as re-implemented by its readers; the direction is a proposal, not confirmed against the paper.
    """
    _refuse_temperature(temperature)
    if not isinstance(losses, Tensor) and len(losses) == 0:
        raise ValueError("weights of no losses are not defined; give at least one")
    stacked = losses if isinstance(losses, Tensor) else torch.stack([torch.as_tensor(loss) for loss in losses])
    if stacked.dim() != 1 or stacked.numel() == 0:
        raise ValueError(f"losses have shape {list(stacked.shape)}; give scalars, at least one, or one tensor [L]")
    return F.softmax(_widen(stacked).detach() / temperature, dim=0)


def _compute_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return temperature² × the divergence of samples, [N, K] with [N, K] or a cohort's [M, N, K] -> [] or [M]."""
    _refuse_temperature(temperature)
    of_student = F.log_softmax(student / temperature, dim=-1)
    of_teacher = F.softmax(teacher.detach() / temperature, dim=-1)  # a class that is masked with -inf has 0 × log 0 = 0
    each = F.kl_div(of_student, of_teacher, reduction="none")  # as large as `teacher`
    return each.sum(dim=-1).mean(dim=-1) * temperature**2


def _compute_probabilities(samples: Tensor, temperature: float, activation: Activation) -> Tensor:
    if activation not in ("softmax", "sigmoid"):
        raise ValueError(f"activation {activation!r} is not known; use 'softmax' or 'sigmoid'")
    _refuse_temperature(temperature)
    softened = samples / temperature
    return torch.sigmoid(softened) if activation == "sigmoid" else F.softmax(softened, dim=-1)


def _compute_relations(student: Tensor, teacher: Tensor, *, guard: bool, denominator: Denominator) -> tuple[Tensor, Tensor]:
    """Return inter and intra of probabilities, [N, K] with [N, K] or a cohort's [M, N, K] -> [] or [M] each."""
    inter, intra = (
        (1 - _correlate(student, teacher, dim=dim, guard=guard, denominator=denominator)).mean(dim=-1)
        for dim in (-1, -2)  # the difference before the mean: it may be small
    )
    return inter, intra


def _correlate(left: Tensor, right: Tensor, *, dim: int, guard: bool, denominator: Denominator = "product") -> Tensor:
    """Return Pearson's correlation along one dimension, which is reduced; the others broadcast."""
    u, v = left - left.mean(dim, keepdim=True), right - right.mean(dim, keepdim=True)
    u_norm, v_norm = torch.linalg.vector_norm(u, dim=dim), torch.linalg.vector_norm(v, dim=dim)
    correlation: Tensor = (u * v).sum(dim) / _compute_denominator(u_norm, v_norm, denominator)
    if not guard:
        return correlation
    constant = _is_constant(u_norm, left, dim) | _is_constant(v_norm, right, dim)
    return correlation.masked_fill(constant, 0)


def _compute_denominator(u_norm: Tensor, v_norm: Tensor, kind: Denominator) -> Tensor:
    if kind == "product":
        return u_norm * v_norm + DIST_EPSILON
    if kind == "norms":
        return u_norm.clamp_min(DIST_EPSILON) * v_norm.clamp_min(DIST_EPSILON)
    raise ValueError(f"denominator {kind!r} is not known; use 'product' or 'norms'")


def _is_constant(centred_norm: Tensor, vectors: Tensor, dim: int) -> Tensor:
    constant: Tensor = centred_norm.detach() <= DEGENERATE * torch.linalg.vector_norm(vectors.detach(), dim=dim)
    return constant


def _flatten_samples(logits: Tensor, valid: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """Return logits [..., N, K], the class axis last; of dense logits every valid pixel is a sample.

    Args:
        logits: [N, K, ...], or of a cohort [M, N, K, ...].
        valid: Which samples count, bool [N, ...].
        axis: Where the classes are.
    """
    if logits.dim() <= axis:
        kind = "[N, K] or [N, K, H, W]" if axis == 1 else "[M, N, K] or [M, N, K, H, W]"
        raise ValueError(f"logits have shape {list(logits.shape)}; give {kind}")
    _refuse_empty(logits, "logits")
    apart = _widen(logits).movedim(axis, -1)  # [..., N, H, W, K]
    samples = apart.flatten(axis - 1, -2)
    if valid is None:
        return samples
    if valid.dtype != torch.bool or valid.shape != apart.shape[:-1]:
        raise ValueError(f"valid is {valid.dtype} {list(valid.shape)}; it must be torch.bool {list(apart.shape[:-1])}")
    if not valid.any():
        raise ValueError(f"valid marks none of {valid.numel()} samples, and the mean over none is not defined; skip the batch")
    return samples[valid.flatten()]


def _refuse_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:  # so that NaN is refused too
        raise ValueError(f"temperature is {temperature}; give a finite number above 0")


def _refuse_empty(tensor: Tensor, what: str) -> None:
    if tensor.numel() == 0:
        raise ValueError(f"{what} have shape {list(tensor.shape)}, and the mean over none is not defined; skip the batch")


def _require_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"{what}: {list(student.shape)} and {list(teacher.shape)} differ; bring them to one shape first")


def _require_same_shape_each(student: Tensor, teachers: Tensor) -> None:
    if teachers.dim() == 0 or len(teachers) == 0:
        raise ValueError("the cohort is empty; give the logits of at least one teacher")
    _require_same_shape(student, teachers[0], "logits of the student and of each of the cohort")


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
