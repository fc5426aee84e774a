"""Where a bundle's gate asks less of its files than this version does by itself.

A gate is what its writer set: who loosens it, and makes every checksum right again, is caught by nobody. So it is said.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from compress.recipe import GateSection
from compress.records import Precision
from exporters.verification.gate import AGREEMENT, bound


def looser(settings: GateSection, reference: NDArray[np.float32], precision: Precision) -> Iterator[str]:
    """Yield what a gate allows beyond the defaults of `GateSection`; nothing where it is as strict or stricter.

    Args:
        settings: The gate.
        reference: Logits of the network, [N, K], on whose size the default of the largest difference depends.
        precision: Of the file.
    """
    default = GateSection()
    if settings.max_top1_drop_points > default.max_top1_drop_points:
        yield f"a drop of {settings.max_top1_drop_points:g} points (default {default.max_top1_drop_points:g})"
    if settings.min_agreement is not None and settings.min_agreement < AGREEMENT[precision]:
        yield f"an agreement of {100 * settings.min_agreement:g} % (default {100 * AGREEMENT[precision]:g} %)"
    usual = bound(reference, precision)
    if settings.max_abs_diff is not None and settings.max_abs_diff > usual:
        yield f"logits that differ by {settings.max_abs_diff:g} (default {usual:.3g})"
