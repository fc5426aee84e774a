"""Look at the pictures of a recipe before anything is trained: what cannot be read, uses few of its bits, or is squeezed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from compress import plugins
from compress.data import Findings, examine_pictures
from compress.events import Events
from compress.recipe import DataSection, Recipe
from compress.records import CROP_FRACTION, FILL, Preprocess
from compress.text import format_percent, quantify

MOST_BYTES = 512 << 20
"""Of files that are looked at: seconds, where a run looks at all."""
SQUEEZED = 1.1
"""Ratio of the sides from which on a picture is not square."""
MUCH_SMALLER = 4
"""How many times smaller pictures are made before it is worth a word."""


def make_preprocess(section: DataSection, channels: str) -> Preprocess:
    """Return how pictures are decoded; mean and std, which that does not depend on, are those of no normalisation."""
    return Preprocess.model_validate(
        {
            "height": section.sides[0], "width": section.sides[1], "channels": channels, "geometry": section.geometry,
            "crop_fraction": section.crop_fraction or CROP_FRACTION, "fill": FILL if section.fill is None else section.fill,
            "interpolation": section.interpolation, "black_level": section.black_level, "white_level": section.white_level,
            "mean": (0.0,), "std": (1.0,),
        }
    )  # fmt: skip


def check_pictures(recipe: Recipe, *, base: Path, events: Events) -> tuple[str, ...]:
    """Decode the pictures of a recipe, or of a large set some of them, and return what a reader must know of them.

    Raises:
        CompressError: Some cannot be read, and the recipe does not leave them out; or a split uses less than half of 16 bits.
        Unreachable: Files cannot be opened.
    """
    source = plugins.load("data", recipe.data.source)(**recipe.data.options(base))
    encoded = getattr(source, "load_encoded", None)
    if encoded is None:  # the source decodes all at once, by itself
        return ()
    pictures = encoded()
    preprocess = make_preprocess(recipe.data, source.channels)
    findings = examine_pictures(pictures, preprocess, most_bytes=MOST_BYTES, events=events)
    if not recipe.data.skip_unreadable:
        findings.refuse_unreadable()
    findings.refuse_narrow_range(preprocess)
    total = len(pictures.train.labels) + len(pictures.test.labels)
    clipped = (f"data: {note}" for note in findings.describe_clipping(preprocess))
    return (*_describe_findings(findings, recipe.data, total), *clipped)


def _describe_findings(findings: Findings, section: DataSection, total: int) -> Iterator[str]:
    if findings.looked_at < total:
        yield f"data: {findings.looked_at:,} of {total:,} pictures were looked at, evenly over the set; a run looks at all"
    if findings.unreadable:
        count = quantify(len(findings.unreadable), "picture")
        yield f"data: {count} cannot be read and are left out (data.skip_unreadable), the first: {findings.unreadable[0]}"
    if findings.sizes:
        yield from _describe_resizing(findings.sizes, section)


def _describe_resizing(sizes: list[tuple[int, int]], section: DataSection) -> Iterator[str]:
    """Yield what resizing does to pictures that are not square, or much larger than the networks see."""
    rows, columns = section.sides
    shapes = [width * rows / (height * columns) for width, height in sizes]
    oblong = [ratio for ratio in shapes if not 1 / SQUEEZED <= ratio <= SQUEEZED]
    widths, heights = zip(*sizes, strict=True)
    middle = f"{median(widths):g} × {median(heights):g}"
    if oblong:
        worst = max(max(ratio, 1 / ratio) for ratio in oblong)
        share = format_percent(100 * len(oblong) / len(sizes))
        other = "are not square" if rows == columns else f"have another shape than {columns} × {rows}"
        yield (f"data: {share} of the pictures {other} ({middle} at the median); {_describe_geometry(section, worst)}")
    smaller = min(median(widths) / columns, median(heights) / rows)
    if smaller >= MUCH_SMALLER:
        yield (
            f"data: pictures of {middle} pixels at the median are resized to {columns} × {rows}; what is smaller than "
            f"{smaller:.0f} pixels is lost: raise data.image_size if classes differ in that"
        )


def _describe_geometry(section: DataSection, worst: float) -> str:
    """Return what is done to pictures of another shape, the worst of which is so many times too long."""
    if section.geometry == "center_crop":
        return f"their middle is cut out, and of the longest {format_percent(100 / worst)} is left"
    if section.geometry == "letterbox":
        return f"they are filled up to it, and the longest covers {format_percent(100 / worst)} of it"
    size = " and ".join(dict.fromkeys(map(str, section.sides)))
    return f"both sides are resized to {size}, so they are squeezed, by up to {worst:.2g}, and nothing is cut off"
