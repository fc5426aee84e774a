"""Interval of a share: how sure an accuracy is that was counted on some images."""

from __future__ import annotations

import math

from compress.errors import CompressError

Z_975 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def compute_wilson_interval(hits: int, samples: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share, as shares from 0 to 1 (Wilson 1927).

    Args:
        hits: Samples that count.
        samples: All samples, at least one.

    Raises:
        CompressError: There are no samples, or more hits than samples.
    """
    if not 0 <= hits <= samples or samples == 0:
        raise CompressError(f"accuracy of {hits} hits among {samples} images is not defined; give at least one image")
    share, scale = hits / samples, 1 + Z_975 * Z_975 / samples
    middle = (share + Z_975 * Z_975 / (2 * samples)) / scale
    half = Z_975 * math.sqrt(share * (1 - share) / samples + Z_975 * Z_975 / (4 * samples * samples)) / scale
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))  # rounding may cross at 0 and 1
