"""The recipe's section on augmentation: what is done to each training image besides crops from a border and mirroring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from compress.recipe.types import Count, NonNegative, Positive, Section, Share


def _make_pair(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Scale = Annotated[float, Field(gt=0, le=1)]


class AugmentSection(Section):
    """Augmentation of training images; teacher and student always see the same. Nothing of it is on by default."""

    crop_scale: Annotated[tuple[Scale, Scale], BeforeValidator(_make_pair)] | None = None
    """A random part of the image, resized to all of it: the least and the largest share of its area, such as [0.35, 1]."""
    crop_ratio: Annotated[tuple[Positive, Positive], BeforeValidator(_make_pair)] = (0.75, 1.3333)
    """Of that part: the least and the largest ratio of width to height."""
    brightness: Share = 0.0
    """Change of brightness by a random factor from 1 - this to 1 + this."""
    contrast: Share = 0.0
    """The same of contrast."""
    saturation: Share = 0.0
    """The same of saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Random turn of the hues by at most this share of a circle."""
    rand_augment: Annotated[int, Field(ge=1, le=30)] | None = None
    """RandAugment of this magnitude: `operations` random ones of 14 (Cubuk et al., arXiv:1909.13719); 9 is usual."""
    operations: Count = 2
    """How many operations RandAugment applies."""
    trivial_augment: bool = False
    """TrivialAugment: one random operation of any magnitude (Müller and Hutter, arXiv:2103.10158)."""
    erasing: Share = 0.0
    """Probability with which a random rectangle is filled with the mean colour (Zhong et al., arXiv:1708.04896)."""
    mixup: NonNegative = 0.0
    """Blend each image and its label with another one, by a share drawn from Beta(this, this) (Zhang et al.,
    arXiv:1710.09412)."""
    cutmix: NonNegative = 0.0
    """Paste a rectangle of another image and the like share of its label (Yun et al., arXiv:1905.04899); with `mixup`, one of
    both for each image."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        """Refuse ranges that run backwards."""
        for name, pair in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"a section whose {name} begins with the smaller number")
        return self

    @property
    def is_on(self) -> bool:
        """Whether anything is done."""
        return bool(list(self.describe()))

    @property
    def mixes(self) -> bool:
        """Whether images and labels of two images are mixed."""
        return bool(self.mixup or self.cutmix)

    def describe(self) -> Iterator[str]:
        """Yield each thing that is done, as a reader of `check` sees it."""
        if self.crop_scale is not None:
            yield f"random parts of {self.crop_scale[0]:g} to {self.crop_scale[1]:g} of the area"
        for name in ("brightness", "contrast", "saturation", "hue"):
            if getattr(self, name):
                yield f"{name} ± {getattr(self, name):g}"
        if self.rand_augment is not None:
            yield f"RandAugment ({self.operations} of magnitude {self.rand_augment})"
        if self.trivial_augment:
            yield "TrivialAugment"
        for name in ("erasing", "mixup", "cutmix"):
            if getattr(self, name):
                yield f"{name} {getattr(self, name):g}"
