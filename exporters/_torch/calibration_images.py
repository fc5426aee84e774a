"""Check of calibration images: the images on which int8 ranges are estimated, whatever the format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError


def check_images(images: NDArray[np.float32], shape: tuple[int, ...], where: str) -> None:
    """Check that images can calibrate a network.

    Args:
        images: Normalised, float32 [N, C, H, W].
        shape: What the network takes, [C, H, W].
        where: What is exported, for messages.

    Raises:
        CompressError: They have another shape or type, are not finite, or there are none.
    """
    if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != shape:
        raise CompressError(
            f"{where}: calibration images are {images.dtype} {list(images.shape)}; "
            f"give normalised float32 [N, {', '.join(map(str, shape))}]"
        )
    if len(images) == 0:
        raise CompressError(f"{where}: there are no calibration images; give some of the training split")
    broken = int((~np.isfinite(images).all(axis=(1, 2, 3))).sum())
    if broken:
        raise CompressError(f"{where}: {broken} of {len(images)} calibration images are not finite; check their normalisation")
