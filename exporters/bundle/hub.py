"""Write a bundle in the layout of the Hugging Face hub: one folder to upload, made without any network.

It is the bundle with `config.json` (class names), `preprocessor_config.json` (the contract of preprocessing in the hub's words)
and a README that opens with the hub's metadata, with new checksums. So it is still a bundle, and `compress verify` takes it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.errors import CompressError
from compress.recipe import yaml
from compress.records import BundleFile, Manifest, Preprocess
from compress.system.files import write_whole
from compress.tasks import load_task
from exporters.bundle.bundle import CARD, CONFIG, PREPROCESSOR, README, build_programs, check_bundle
from exporters.bundle.checksums import list_files, write_checksums
from exporters.bundle.readme import name_metric

UNKNOWN = "unknown"
"""The hub's own word for a licence that nobody stated."""
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""Pillow's numbers, which the hub's configurations use."""


def write_hub_folder(bundle: Path, folder: Path, *, licence: str = UNKNOWN) -> None:
    """Write a bundle as a folder that can be uploaded to the hub.

    Args:
        bundle: The bundle; it is checked first. Programs in it are not copied but written anew.
        folder: A folder that is not there yet.
        licence: The hub's identifier of the licence under which the weights are given away, such as `apache-2.0`.

    Raises:
        CompressError: The bundle is not what its manifest says, or the folder is there already.
        Unreachable: The bundle cannot be read, the disk is full, or the folder cannot be written.
    """
    manifest = check_bundle(bundle)
    if manifest.preprocess.geometry == "letterbox":
        raise CompressError(
            f"{bundle}: its pictures are filled up to their size (letterbox), which {PREPROCESSOR} of the hub cannot say; "
            "train with data.geometry: squeeze or center_crop to hand it over in that layout"
        )
    if folder.exists():
        raise CompressError(f"{folder}: is there already, and nothing is replaced; name a new folder")
    with write_whole(folder) as temporary:
        temporary.mkdir()
        for name in list_files(bundle):
            (temporary / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle / name, temporary / name)
        for name, content in build_programs(manifest).items():
            (temporary / name).write_bytes(content)
        documents = {CONFIG: _build_config(manifest), PREPROCESSOR: _build_preprocessor(manifest)}
        for name, document in documents.items():
            (temporary / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        front = f"---\n{yaml.write(_build_metadata(manifest, licence))}---\n\n"
        body = "\n".join((bundle / name).read_text(encoding="utf-8") for name in (README, CARD) if (bundle / name).is_file())
        (temporary / README).write_text(front + body, encoding="utf-8")
        write_checksums(temporary)
        check_bundle(temporary)


def _build_config(manifest: Manifest) -> dict[str, Any]:
    labels = {str(index): name for index, name in enumerate(manifest.classes)}
    return {"num_labels": len(labels), "id2label": labels, "label2id": {name: int(index) for index, name in labels.items()}}


def _build_preprocessor(manifest: Manifest) -> dict[str, Any]:
    pre = manifest.preprocess
    return {
        "do_convert_rgb": pre.channels == "rgb",
        "do_resize": True,
        **_build_geometry(pre),
        "resample": RESAMPLING[pre.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pre.mean),
        "image_std": list(pre.std),
    }


def _build_geometry(pre: Preprocess) -> dict[str, Any]:
    size = {"height": pre.height, "width": pre.width}
    if pre.geometry == "squeeze":
        return {"size": size}
    if pre.height != pre.width:
        raise CompressError(
            f"preprocess: the middle of {pre.width} × {pre.height} pixels cannot be said in {PREPROCESSOR} of the hub, whose "
            "shortest_edge is one number; train with a square data.image_size to hand it over in that layout"
        )
    edge = int(pre.height / pre.crop_fraction)
    return {
        "image_processor_type": "CLIPImageProcessor",  # of those that cut out the middle
        "size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": size,
    }  # fmt: skip


def _build_metadata(manifest: Manifest, licence: str) -> dict[str, Any]:
    results = [result for file in manifest.files for result in _list_results(manifest, file)]
    kind, metric = _name_kind(manifest)
    tags = [kind, *dict.fromkeys(file.format for file in manifest.files), "edge-compress"]
    metadata: dict[str, Any] = {
        "license": licence,
        "pipeline_tag": kind,
        "tags": tags,
        "metrics": [metric],
    }
    return metadata | ({"model-index": [{"name": manifest.name, "results": results}]} if results else {})


def _name_kind(manifest: Manifest) -> tuple[str, str]:
    """Return what the hub calls the task of a bundle, and its metric."""
    if load_task(manifest.task).boxes:
        return "object-detection", "mean_average_precision"
    return ("image-segmentation", "mean_iou") if len(manifest.shape) > 1 else ("image-classification", "accuracy")


def _list_results(manifest: Manifest, file: BundleFile) -> Iterator[dict[str, Any]]:
    """Yield the test accuracy of a file, where it was measured, as a share: the hub's unit."""
    found = file.measured.accuracy if file.measured else None
    if found is not None:
        kind, metric = _name_kind(manifest)
        data = manifest.provenance.get("data", "not recorded")
        low, high = (bound / 100 for bound in found.ci95)
        yield {
            "task": {"type": kind},
            "dataset": {"name": data, "type": data, "split": "test"},
            "metrics": [
                {
                    "type": metric,
                    "name": f"{name_metric(manifest)} of {file.path}, n={found.samples}, 95 % interval {low:.4f}–{high:.4f}",
                    "value": round(found.percent / 100, 6),
                }
            ],
        }
