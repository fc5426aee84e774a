"""Distillation losses: pure functions of tensors.

Logits are [N, K], or dense [N, K, H, W], where every pixel counts as a sample. `teacher` never receives a gradient. Half
precision is widened to float32 before anything is computed. Each file is one idea, with its equations and their source.

Raises:
    ValueError: From every function: shapes that do not pair up, which broadcasting would hide; logits without classes; nothing
        to average over; a temperature that is not a finite number above 0.
"""

from compress.losses.correlations import DEGENERATE, DIST_EPSILON, Activation, Denominator, dist, dist_cohort, dist_relations
from compress.losses.divergences import STANDARDISATION_FLOOR, binary_kd, cwd, dkd, kd, kd_cohort, standardise
from compress.losses.embeddings import DISTANCE_FLOOR, rkd
from compress.losses.maps import CHANNEL_FLOOR, NORM_FLOOR, attention_map, attention_transfer, factor_l1, feature_mse, pkd
from compress.losses.weights import drift, softmax_weights

__all__ = [
    "CHANNEL_FLOOR",
    "DEGENERATE",
    "DISTANCE_FLOOR",
    "DIST_EPSILON",
    "NORM_FLOOR",
    "STANDARDISATION_FLOOR",
    "Activation",
    "Denominator",
    "attention_map",
    "attention_transfer",
    "binary_kd",
    "cwd",
    "dist",
    "dist_cohort",
    "dist_relations",
    "dkd",
    "drift",
    "factor_l1",
    "feature_mse",
    "kd",
    "kd_cohort",
    "pkd",
    "rkd",
    "softmax_weights",
    "standardise",
]
