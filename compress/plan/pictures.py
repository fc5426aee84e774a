"""Look at the pictures of a recipe before anything is trained: what cannot be read, and what uses few of its bits."""

from __future__ import annotations

from compress.recipe import DataSection
from compress.records import Preprocess


def make_preprocess(section: DataSection, channels: str) -> Preprocess:
    """Return how pictures are decoded; mean and std, which that does not depend on, are those of no normalisation."""
    return Preprocess.model_validate(
        {
            "height": section.image_size, "width": section.image_size, "channels": channels,
            "interpolation": section.interpolation, "black_level": section.black_level, "white_level": section.white_level,
            "mean": (0.0,), "std": (1.0,),
        }
    )  # fmt: skip
