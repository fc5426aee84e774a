"""Images that files are fed, and how they travel: each array once, and as bytes where constants make images of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError

if TYPE_CHECKING:
    from compress.records import Preprocess

Images = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Fed(Protocol):
    """What must be known of a file to feed it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def takes_pixels(self) -> bool:
        """Whether it carries the preprocessing."""

    @property
    def feeds(self) -> tuple[tuple[str, NDArray[Any]], ...]:
        """Inputs of its own by name, each [variants, ...]."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images as networks take them, as pixels, or as pixels with the constants that make the former of them."""

    images: Images | None = None
    """[N, C, H, W]; `None` where they are made of the pixels."""
    pixels: Pixels | None = None
    """[N, H, W, C]."""
    scale: tuple[float, ...] = ()
    """[C]; an image is its pixels * scale + shift, in float32."""
    shift: tuple[float, ...] = ()
    """[C]."""

    @classmethod
    def from_pixels(cls, pixels: Pixels, preprocess: Preprocess) -> Inputs:
        """Return pixels [N, H, W, C] that travel as they are, and that the runner normalises as `compress.preprocess` does."""
        from compress.preprocess import compute_scale_shift

        scale, shift = compute_scale_shift(preprocess)
        return cls(pixels=pixels, scale=tuple(map(float, scale)), shift=tuple(map(float, shift)))

    def __len__(self) -> int:
        """Return the number of images."""
        held: NDArray[Any] | None = self.pixels if self.images is None else self.images
        return 0 if held is None else len(held)

    def find_shape(self, file: Fed, batch_size: int = 1) -> tuple[int, ...]:
        """Return the shape of what a file takes in a call: [batch, C, H, W], or [batch, H, W, C] where it takes pixels."""
        if self.images is not None:
            channels, height, width = self.images.shape[1:]
        else:
            height, width, channels = np.asarray(self.pixels).shape[1:]
        return (batch_size, height, width, channels) if file.takes_pixels else (batch_size, channels, height, width)

    def check(self) -> None:
        """Refuse what is no image.

        Raises:
            CompressError: The images or pixels are none, or of another shape or type.
        """
        images, pixels = self.images, self.pixels
        if images is not None and (images.ndim != 4 or images.dtype != np.float32 or not len(images)):
            raise CompressError(f"images are {images.dtype} {list(images.shape)}; give at least one, float32 [N, C, H, W]")
        if images is None and (pixels is None or pixels.ndim != 4 or pixels.dtype != np.uint8 or not len(pixels)):
            found = "none" if pixels is None else f"{pixels.dtype} {list(pixels.shape)}"
            raise CompressError(f"pixels are {found}; give at least one image, uint8 [N, H, W, C]")
        if images is None and pixels is not None and not len(self.scale) == len(self.shift) == pixels.shape[3]:
            raise CompressError(f"pixels have {pixels.shape[3]} channels, and {len(self.scale)} constants; give one for each")

    def choose(self, file: Fed) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the array [N, ...] that a file is fed from, and what the runner must know to feed it.

        Raises:
            CompressError: The file carries the preprocessing, and there are no pixels of these images.
        """
        if not file.takes_pixels:
            if self.images is not None:
                return self.images, {}
            return np.asarray(self.pixels), {"scale": self.scale, "shift": self.shift}
        if self.images is None:
            return np.asarray(self.pixels), {}
        count, channels, height, width = self.images.shape
        wanted = (count, height, width, channels)
        if self.pixels is None or self.pixels.dtype != np.uint8 or self.pixels.shape != wanted:
            found = "none" if self.pixels is None else f"{self.pixels.dtype} {list(self.pixels.shape)}"
            raise CompressError(
                f"{file.name}: carries the preprocessing, so it needs pixels uint8 {list(wanted)}, not {found}; give `pixels`"
            )
        return self.pixels, {}


AnyInputs = Images | Inputs | Mapping[str, Images | Inputs]


def assign(files: Sequence[Fed], given: AnyInputs, pixels: Pixels | None) -> dict[str, Inputs]:
    """Return what each file is fed, by its name; files with inputs of their own need none.

    Raises:
        CompressError: A file has none, or what it has are no images.
    """
    assigned = {}
    for file in files:
        if file.feeds:
            continue
        if isinstance(given, Mapping):
            if file.name not in given:
                raise CompressError(f"{file.name}: has no images among {sorted(given)}; give it some by its name")
            own = given[file.name]
        else:
            own = given
        inputs = own if isinstance(own, Inputs) else Inputs(images=own, pixels=pixels)
        inputs.check()
        assigned[file.name] = inputs
    return assigned


class InputFolder:
    """The folder `inputs` of a job, where each array lies once, whatever number of files it is fed to."""

    def __init__(self, job: Path) -> None:
        self.job, self._known = job, dict[str, str]()
        (job / "inputs").mkdir()

    def add(self, array: NDArray[Any]) -> str:
        """Write an array [N, ...] unless one of the same content is there; return its path in the job."""
        values = np.ascontiguousarray(array)
        digest = hashlib.sha256(f"{values.dtype} {values.shape}".encode() + values.tobytes()).hexdigest()
        if digest not in self._known:
            self._known[digest] = f"inputs/{len(self._known)}.npy"
            np.save(self.job / self._known[digest], values, allow_pickle=False)
        return self._known[digest]
