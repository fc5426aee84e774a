"""Damages to a file of maps, each as something that really happens: to what it is fed, to what it gives, or to its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.records import Preprocess

Images = NDArray[np.float32]
Maps = NDArray[np.float32]
Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def list_input_damages(preprocess: Preprocess) -> dict[str, Change]:
    """Return what may be wrong with normalised images [N, C, H, W]."""
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
    return {
        "fed BGR": lambda images: (images * std + mean)[:, ::-1] / std - mean / std,
        "fed mirrored": lambda images: images[..., ::-1],
        "fed turned, as by EXIF": lambda images: np.rot90(images, axes=(2, 3)),
        "fed without mean": lambda images: images + mean / std,
        "fed values from 0 to 1": lambda images: images * std + mean,
    }


def _blur(maps: Maps) -> Maps:
    noise = np.random.default_rng(0).standard_normal(maps.shape, dtype=np.float32)
    return maps + 0.2 * np.float32(np.sqrt(np.square(maps).mean())) * noise


def _fill_with_background(maps: Maps) -> Maps:
    filled = np.full_like(maps, maps.min())
    filled[:, 0] = maps.max()
    return filled


OUTPUT_DAMAGES: Mapping[str, Change] = {
    "maps transposed": lambda maps: maps.swapaxes(2, 3),
    "maps mirrored": lambda maps: maps[..., ::-1],
    "classes shifted by one": lambda maps: np.roll(maps, -1, axis=1),
    "background everywhere": _fill_with_background,
    "maps moved by a cell": lambda maps: np.roll(maps, 1, axis=3),
    "another image's maps": lambda maps: np.roll(maps, 1, axis=0),
    "noise of a fifth": _blur,
    "maps of half the size": lambda maps: maps[:, :, ::2, ::2],
}


def list_graph_damages() -> dict[str, Callable[[Any], None]]:
    """Return edits of an ONNX graph: maps within the network are enlarged otherwise than in training."""

    def align_corners(node: Any) -> None:
        _set(node, "coordinate_transformation_mode", "align_corners")

    def take_nearest(node: Any) -> None:
        _set(node, "mode", "nearest")
        _set(node, "coordinate_transformation_mode", "asymmetric")
        _set(node, "nearest_mode", "floor")

    return {"resized with the other align_corners": align_corners, "resized by the nearest cell": take_nearest}


def _set(node: Any, name: str, value: str) -> None:
    from onnx import helper

    for each in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(each)
    node.attribute.append(helper.make_attribute(name, value))


def edit_resizes(path: Path, target: Path, edit: Callable[[Any], None]) -> int:
    """Write an ONNX file with every resize of another edited; return how many there are."""
    import onnx

    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type == "Resize"]
    for node in nodes:
        edit(node)
    onnx.save(model, target)
    return len(nodes)
