"""Data sources, one file each, and what they share: the contract, decoding, splits and data loaders.

A source needs `Source`, `Dataset`, `Split` and `Summary`. The loaders `InMemory`, `FromDisk` and `FromLoader` import torch,
which happens when one of them is first used: a source is described without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.data._batch import Batch, Batches, ViewedBatches
from compress.data._decode import decode_to_disk, decode_to_memory, examine_pictures
from compress.data._disk_images import DiskImages, ImageFile
from compress.data._findings import Findings
from compress.data._source import (
    IGNORED,
    Dataset,
    EncodedDataset,
    EncodedSplit,
    Source,
    Split,
    Summary,
    check_dataset,
    count_repeated,
    divide_stratified,
    hash_dataset,
    hold_out,
    name_task,
    read_summary,
    take_stratified,
)
from compress.data._splits import list_names, refuse_duplicates
from compress.data._unlabelled import (
    UNLABELLED,
    add_unlabelled,
    forget_labels,
    join_splits,
    list_unlabelled,
    make_unlabelled,
    repeat_rows,
    take_apart,
)
from compress.tasks import Labels

if TYPE_CHECKING:
    from compress.data._augmented import WHOLE_PIXELS, Augmented, Targets
    from compress.data._disk_loader import FromDisk
    from compress.data._loader import InMemory
    from compress.data._user_loader import CheckedLoader, FromLoader, Loader, Unpack, refuse_labels

__all__ = [
    "IGNORED", "UNLABELLED", "WHOLE_PIXELS", "Augmented", "Batch", "Batches", "CheckedLoader", "Dataset", "DiskImages",
    "EncodedDataset", "EncodedSplit", "Findings", "FromDisk", "FromLoader", "ImageFile", "InMemory", "Labels", "Loader",
    "Source", "Split", "Summary", "Targets", "Unpack", "ViewedBatches", "add_unlabelled", "check_dataset", "count_repeated",
    "decode_to_disk", "decode_to_memory", "divide_stratified", "examine_pictures", "forget_labels", "hash_dataset",
    "hold_out", "join_splits", "list_names", "list_unlabelled", "make_unlabelled", "name_task", "read_summary",
    "refuse_duplicates", "refuse_labels", "repeat_rows", "take_apart", "take_stratified",
]  # fmt: skip

_WITH_TORCH = {
    "Augmented": "compress.data._augmented",
    "Targets": "compress.data._augmented",
    "WHOLE_PIXELS": "compress.data._augmented",
    "CheckedLoader": "compress.data._user_loader",
    "FromDisk": "compress.data._disk_loader",
    "FromLoader": "compress.data._user_loader",
    "InMemory": "compress.data._loader",
    "Loader": "compress.data._user_loader",
    "Unpack": "compress.data._user_loader",
    "refuse_labels": "compress.data._user_loader",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WITH_TORCH[name]), name)
