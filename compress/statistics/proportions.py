"""Interval of a share: how sure an accuracy is that was counted on some images."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def compute_balanced_interval(hits: Sequence[int], samples: Sequence[int]) -> tuple[float, float, float]:
    """Return the balanced accuracy, which is the mean of the classes' recalls, and its 95 % interval, as shares from 0 to 1.

    The interval joins the Wilson intervals of the recalls (MOVER: Zou and Donner 2008, Statistics in Medicine 27:1693-1702).

    Args:
        hits: Images of each class that count, [K].
        samples: All images of each class, [K]; a class without images has no recall and is left out.

    Raises:
        CompressError: There are no images, or more hits than images in a class.
    """
    pairs = [pair for pair in zip(hits, samples, strict=True) if pair[1] > 0]
    if not pairs:
        raise CompressError("balanced accuracy of no images is not defined; give at least one image")
    ends = [compute_wilson_interval(*pair) for pair in pairs]
    recalls = [count / images for count, images in pairs]
    value = sum(recalls) / len(recalls)
    below = math.hypot(*(recall - low for recall, (low, _) in zip(recalls, ends, strict=True))) / len(recalls)
    above = math.hypot(*(high - recall for recall, (_, high) in zip(recalls, ends, strict=True))) / len(recalls)
    return value, max(0.0, value - below), min(1.0, value + above)
