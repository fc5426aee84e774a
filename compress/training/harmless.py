"""Objects that training scripts keep beside the weights, read without importing or running any of them.

Reference scripts save their arguments, paths, dates and NumPy numbers with the weights. torch's loader refuses every global
that it does not know; the names below are answered with stand-ins of ours, which take whatever they are given and keep nothing.
So no class of the file is imported, no function of it is called, and every other name is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Any, Self

import torch


class Extra:
    """Stand-in for an object that is no weight; it keeps nothing of what it is given."""

    def __new__(cls, *_args: object) -> Self:
        """Take anything."""
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        """Take anything."""


def make_empty_dict(*_args: object) -> dict[Any, Any]:
    """Return what stands in for a dict with a default factory."""
    return {}


_NUMPY_NUMBERS = ("Bool", *(f"{kind}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)), "Float16", "Float32",
                  "Float64", "LongDouble", "Complex64", "Complex128", "Str", "Bytes", "Long", "ULong", "LongLong")  # fmt: skip
_OBJECTS = (
    "argparse.Namespace", "types.SimpleNamespace", "decimal.Decimal", "uuid.UUID", "typing.Any",
    *(f"pathlib{local}.{name}" for local in ("", "._local") for name in
      ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.ndarray", "numpy.dtype", *(f"numpy.dtypes.{name}DType" for name in _NUMPY_NUMBERS),
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "range", "slice", "frozenset")),
    "torch.torch_version.TorchVersion",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", *(f"omegaconf.nodes.{name}Node" for name in ("Any", "String", "Integer", "Float", "Boolean")),
    *(f"{package}.callbacks.{name}" for package in ("pytorch_lightning", "lightning.pytorch") for name in
      ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping", "lr_monitor.LearningRateMonitor")),
)  # fmt: skip
_DICTS = (
    "easydict.EasyDict", "addict.addict.Dict", "munch.Munch", "yacs.config.CfgNode", "box.box.Box",
    "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict", "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict", "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)  # fmt: skip


def allow_harmless_objects() -> AbstractContextManager[None]:
    """Let `torch.load(weights_only=True)` read past the objects of training scripts while the context lasts."""
    pairs: list[Any] = [(Extra, name) for name in _OBJECTS]
    pairs += [(OrderedDict, name) for name in _DICTS]  # torch's loader fills dicts of few types alone, this one among them
    pairs.append((make_empty_dict, "collections.defaultdict"))
    allowed: AbstractContextManager[None] = torch.serialization.safe_globals(pairs)
    return allowed
