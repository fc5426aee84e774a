"""Distances and angles among the embeddings of a batch (RKD 1904.05068)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses._samples import widen

DISTANCE_FLOOR = 1e-12
"""Smallest squared distance of two embeddings."""


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
    of_student, of_teacher = widen(student), widen(teacher).detach()
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
