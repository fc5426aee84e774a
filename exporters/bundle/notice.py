"""The notice of a bundle: what is known of the licences of all that went into it, and of what it needs to run."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import PurePath

from compress.records import Manifest
from exporters.bundle.card import UNKNOWN, Background

NEEDED = {"onnxruntime": "onnxruntime", "openvino": "openvino", "executorch": "executorch", "litert": "ai-edge-litert"}
"""Python package of each runtime."""


def notice(manifest: Manifest, background: Background | None) -> str:
    """Return what is known of licences, as plain text; what is not known is said to be unknown.

    Args:
        manifest: Of the bundle.
        background: What the run knows.
    """
    runtimes = {NEEDED.get(file.runtime, file.runtime) for file in manifest.files}
    makers = [name.removeprefix("package.") for name in manifest.provenance if name.startswith("package.")]
    return f"""LICENCES OF WHAT WENT INTO THIS BUNDLE, AS FAR AS THEY ARE KNOWN

This file was written by a program. It grants nothing and is no legal advice. "{UNKNOWN}" means that nobody told the program.

Weights of the model files: {UNKNOWN} whoever trained them
{_lines(_weights(background))}

Training data, of which samples.npz and samples/ hold images
{_lines(_data(background))}

Programs in this bundle (predict.py, cpp/)
{_lines(["made by edge-compress: Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)"])}

Python packages that are needed to run it; none is contained in it
{_lines(_package(name) for name in ("numpy", "pillow", *sorted(runtimes)))}

Python packages with which it was made; none is contained in it
{_lines(map(_package, makers)) if makers else "  not recorded"}
"""


def _lines(items: Iterator[str] | list[str]) -> str:
    return "\n".join(f"  {item}" for item in items)


def _weights(background: Background | None) -> Iterator[str]:
    if background is None:
        yield "where they come from is not recorded"
        return
    recipe = background.recipe
    roles = [("student", recipe.student.weights), *((f"teacher {each.model}", each.weights) for each in recipe.teacher)]
    for role, weights in roles:
        if weights is None:
            yield f"{role}: started from random numbers and was trained on the data below"
        else:
            yield f"{role}: started from the file {_line(PurePath(weights).name)}, licence {UNKNOWN} whoever gave it"


def _data(background: Background | None) -> Iterator[str]:
    if background is None:
        yield f"source not recorded, licence {UNKNOWN} whoever wrote the bundle"
    elif background.data_licence:
        yield f"source {background.recipe.data.source}: {_line(background.data_licence)}"
    else:
        yield f"source {background.recipe.data.source}: licence {UNKNOWN} whoever gave the data"


def _package(name: str) -> str:
    """Return a package with the licence that its own metadata states where the bundle is written."""
    try:
        known = metadata(name)
    except PackageNotFoundError:
        return f"{name}: not installed where this was written, licence {UNKNOWN}"
    classified = [line.rpartition(" :: ")[2] for line in known.get_all("Classifier") or [] if line.startswith("License ::")]
    stated = _first(known.get_all("License-Expression")) or ", ".join(classified) or _first(known.get_all("License"))
    return f"{name} {known['Version']}: {_line(stated) or UNKNOWN}"


def _first(values: list[str] | None) -> str:
    return next(iter((values or [""])[0].strip().splitlines()), "")


def _line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
