"""Compress vision models for edge devices: distil, export, prove, measure.

`compress.distill` trains a student with your own modules and loaders, `compress.TrainSection` says how, and `compress.Network`
names the taps of a module. What cannot be done is a `compress.CompressError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.system import torchvision_hook as _torchvision

if TYPE_CHECKING:
    from compress.api import Distilled, distill
    from compress.errors import CompressError
    from compress.models import Network
    from compress.recipe import TrainSection

__version__ = "0.1.0"
__all__ = ["CompressError", "Distilled", "Network", "TrainSection", "distill"]

_LAZY = {
    "CompressError": "compress.errors",
    "Distilled": "compress.api",
    "distill": "compress.api",
    "Network": "compress.models",
    "TrainSection": "compress.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


_torchvision.install()
