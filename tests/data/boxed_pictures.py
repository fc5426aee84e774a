"""Small folders of pictures with boxes, in the layouts that sources read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (60, 40)
"""Of the pictures: width and height."""
Change = Callable[[dict[str, Any]], object]


def draw(path: Path, *, turned: bool = False) -> None:
    """Write a picture that is red from (12, 10) to (30, 30), stored turned by EXIF if asked for."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[..., 2] = 40 * ("test" in path.parts) + 20 * (path.stem == "b")  # no picture is another one
    pixels[10:30, 12:30, 0] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        pixels, exif[0x0112] = np.rot90(pixels), 6  # upright by a quarter to the right
    Image.fromarray(pixels).save(path, exif=exif)


def write_coco(folder: Path, change: Change | None = None) -> Path:
    """Write two splits of two pictures, of which the second shows nothing; `change` is made to the training side."""
    for split in ("train", "test"):
        for name in ("a.png", "b.png"):
            draw(folder / split / name)
        numbers = {7: "a.png", 3: "b.png"}
        content: dict[str, Any] = {
            "images": [{"id": number, "file_name": name, "width": 60, "height": 40} for number, name in numbers.items()],
            "categories": [{"id": 90, "name": "cat"}, {"id": 4, "name": "dog"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 90, "bbox": [12, 10, 18, 20], "iscrowd": 0},
                {"id": 2, "image_id": 7, "category_id": 4, "bbox": [50, 30, 11, 10.5]},
                {"id": 5, "image_id": 7, "category_id": 4, "bbox": [0, 0, 10, 10], "iscrowd": 1},
            ],
        }  # fmt: skip
        if split == "train" and change is not None:
            change(content)
        (folder / split / "annotations.json").write_text(json.dumps(content))
    return folder


def write_yolo(folder: Path, line: str = "1 0.35 0.5 0.3 0.5") -> Path:
    """Write the same as text; the first line of the training side is given."""
    for split in ("train", "test"):
        draw(folder / split / "images" / "a.png", turned=True)
        draw(folder / split / "images" / "b.png")
        labels = folder / split / "labels"
        labels.mkdir()
        first = line if split == "train" else "1 0.35 0.5 0.3 0.5"
        (labels / "a.txt").write_text(f"{first}\n\n0 0.9 0.9 0.2 0.2\n")
        (labels / "b.txt").write_text("")
    (folder / "classes.txt").write_text("dog\ncat\n")
    return folder
