"""Tell whether a network knows anything: whether its answers depend on what is shown.

That is no matter of top-1 against the share of the commonest class: where one part in thirty is defective, a good detector may
have less top-1 than "never". It is a matter of independence (`compress.statistics.independence`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.records import Accuracy
from compress.statistics.independence import compute_independence_p_value

SIGNIFICANT = 0.01
"""A network that guesses is taken for one that knows something once in so many."""


def find_guessing(name: str, predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> str:
    """Return that the answers of a network do not depend on what is shown, or nothing.

    Args:
        name: The network in messages.
        predicted: Its answers, [N].
        labels: The labels, [N].
        classes: How many there are.
    """
    if compute_independence_p_value(predicted, labels) < SIGNIFICANT:
        return ""
    found = Accuracy.from_predictions(predicted.tolist(), labels.tolist(), classes)
    commonest = 100 * float(np.bincount(labels).max()) / len(labels)
    return (
        f"{name}: has {found.top1_percent:.1f} % top-1 on {len(labels)} validation images, not clearly more than the "
        f"{commonest:.1f} % of always answering the commonest class, and its answers do not depend on what is shown (balanced "
        f"accuracy {found.balanced_percent:.1f} %, by chance {100 / max(len(np.unique(labels)), 1):.1f} %)"
    )
