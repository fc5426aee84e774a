"""Make torchvision importable beside a CPU torch, and change nothing anywhere else.

The wheel's C++ library is linked against CUDA. A CPU torch has no such libraries, so it does not load, and torchvision's import
then fails on two operators that were never declared: `nms` and `qnms`. Some packages (timm, torchmetrics) import torchvision on
their own, so the cure is an import hook: when anybody first imports torchvision beside a CPU torch, the hook tries the library;
if it loads, nothing else happens; otherwise the two operators are declared and `nms` gets a kernel in Python.

`install()` is called by the package's `__init__`, so that processes which only unpickle one of our classes have it too. It
takes a millisecond and imports no torch. Still missing beside a CPU torch: `torchvision.io`'s decoders (we decode with Pillow),
`roi_pool`, `ps_roi_*` and `deform_conv2d`.
"""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from torch import Tensor

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Any] = []  # operators vanish with the object that declared them


def install() -> None:
    """Put the hook in front of the import system, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # importlib.abc would cost ten times the rest
        return spec


class _Loader:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        declared = _declare(Path(str(module.__file__)).parent)
        self._inner.exec_module(module)
        if declared:  # after the import: roi_align has by now chosen its Python path, and boxes.nms asks each time
            sys.modules["torchvision.extension"]._has_ops = _has_ops  # type: ignore[attr-defined]


def _has_ops() -> bool:  # no lambda: torch.jit reads its source
    return True


def _declare(folder: Path) -> bool:
    """Declare the operators unless torchvision's own library does; return whether that was needed."""
    import torch

    library = next(
        (path for suffix in importlib.machinery.EXTENSION_SUFFIXES if (path := folder / f"_C{suffix}").exists()), None
    )
    if torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return False
    try:
        if library is not None:
            torch.ops.load_library(str(library))
            return False
    except OSError:  # it needs CUDA's libraries: declare what it would have declared
        pass
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declared.define(name + _SIGNATURE)
    declared.impl("nms", _nms, "CPU")
    _declared.append(declared)
    return True


def _nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return indices of the boxes [N, 4] (x1 y1 x2 y2) that are kept, best score first; equal scores keep their order."""
    import torch

    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for row in range(len(boxes)):
        if kept[row]:
            rest = boxes[row + 1 :]
            sides = torch.minimum(boxes[row, 2:], rest[:, 2:]) - torch.maximum(boxes[row, :2], rest[:, :2])
            overlap = sides.clamp(min=0).prod(1)  # [rest]
            kept[row + 1 :] &= ~(overlap / (areas[row] + areas[row + 1 :] - overlap) > iou_threshold)
    return order[kept]
