"""Compress vision models for edge devices: distil, export, prove, measure.

`compress.distill` trains a student with your own modules and loaders (see `Distilled`). `TrainSection` says how,
`Network` names the taps of a module, `adapt_teacher` fits a teacher to other images and `probe_teacher` to other classes,
`Events` says where progress goes, and what cannot be done is a `CompressError`. Files are written by `exporters.export` and
measured by `benchmarks.measure`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.system import torchvision_hook as _torchvision

if TYPE_CHECKING:
    from compress.api import Distilled, distill, probe_teacher
    from compress.errors import CompressError
    from compress.events import Events
    from compress.models import Network, adapt_teacher
    from compress.recipe import TrainSection

__version__ = "0.1.0"
__all__ = ["CompressError", "Distilled", "Events", "Network", "TrainSection", "adapt_teacher", "distill", "probe_teacher"]

_LAZY = {
    "CompressError": "compress.errors",
    "Distilled": "compress.api",
    "adapt_teacher": "compress.models",
    "distill": "compress.api",
    "probe_teacher": "compress.api",
    "Events": "compress.events",
    "Network": "compress.models",
    "TrainSection": "compress.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__"])


_torchvision.install()
