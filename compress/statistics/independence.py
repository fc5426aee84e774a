"""Test whether the answers of a classifier have anything to do with what is shown.

Top-1 says little where classes are uneven: of parts of which 3 % are defective, "always good" has 97 %, and a detector with
recall 93 % and specificity 97 % has 96.9 %. What tells the two apart is whether the classifier is right more often than if its
own answers were dealt to the images at random, which is a permutation test of Cohen's kappa (Cohen 1960, Educational and
Psychological Measurement 20:37-46).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 1999
"""The smallest p-value is then 1 in 2000."""


def compute_independence_p_value(predicted: NDArray[np.int64], labels: NDArray[np.int64], *, seed: int = 0) -> float:
    """Return the p-value that predictions are right no more often than if they were dealt to the images at random.

    Args:
        predicted: Classes that were answered, [N].
        labels: True classes, [N].
        seed: Of the permutations.
    """
    hits = int((predicted == labels).sum())
    draws = np.random.default_rng(seed)
    as_often = sum(int((draws.permutation(predicted) == labels).sum()) >= hits for _ in range(PERMUTATIONS))
    return (1 + as_often) / (1 + PERMUTATIONS)
