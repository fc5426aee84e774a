"""Render the notice of a bundle: known licences of everything that went into it, and of the packages that run it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata

from compress.records import Manifest
from exporters.bundle.card import UNKNOWN, Background

NEEDED = {"onnxruntime": "onnxruntime", "openvino": "openvino", "executorch": "executorch", "litert": "ai-edge-litert"}
"""Python package of each runtime."""


def render_notice(manifest: Manifest, background: Background | None) -> str:
    """Render the known licences as plain text; those that are not known are called unknown.

    Args:
        manifest: Of the bundle.
        background: Facts of the run.
    """
    runtimes = {NEEDED.get(file.runtime, file.runtime) for file in manifest.files}
    makers = [name.removeprefix("package.") for name in manifest.provenance if name.startswith("package.")]
    return f"""LICENCES OF WHAT WENT INTO THIS BUNDLE, AS FAR AS THEY ARE KNOWN

This file was written by a program. It grants nothing and is no legal advice. "{UNKNOWN}" means that nobody told the program.

Weights of the model files: {UNKNOWN} whoever trained them
{_indent_lines(_list_weights(background))}

Training data, of which samples.npz and samples/ hold images
{_indent_lines(_list_data(background))}

Programs in this bundle (predict.py, cpp/)
{_indent_lines(["made by edge-compress: Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)"])}

Python packages that are needed to run it; none is contained in it
{_indent_lines(_describe_package(name) for name in ("numpy", "pillow", *sorted(runtimes)))}

Python packages with which it was made; none is contained in it
{_indent_lines(map(_describe_package, makers)) if makers else "  not recorded"}
"""


def _indent_lines(items: Iterator[str] | list[str]) -> str:
    return "\n".join(f"  {item}" for item in items)


def _list_weights(background: Background | None) -> Iterator[str]:
    if background is None:
        yield "where they come from is not recorded"
        return
    recipe = background.recipe
    roles = [("student", recipe.student), *((f"teacher {each.model}", each) for each in recipe.teacher)]
    for role, section in roles:
        if section.has_weights:
            yield f"{role}: started from {_join_lines(section.describe_origin())}, licence {UNKNOWN} whoever gave it"
        else:
            yield f"{role}: started from random numbers and was trained on the data below"


def _list_data(background: Background | None) -> Iterator[str]:
    if background is None:
        yield f"source not recorded, licence {UNKNOWN} whoever wrote the bundle"
    elif background.data_licence:
        yield f"source {background.recipe.data.source}: {_join_lines(background.data_licence)}"
    else:
        yield f"source {background.recipe.data.source}: licence {UNKNOWN} whoever gave the data"


def _describe_package(name: str) -> str:
    """Describe a package by its version and the licence that its own metadata state where the bundle is written."""
    try:
        known = metadata(name)
    except PackageNotFoundError:
        return f"{name}: not installed where this was written, licence {UNKNOWN}"
    classified = [line.rpartition(" :: ")[2] for line in known.get_all("Classifier") or [] if line.startswith("License ::")]
    expression, licence = (_take_first_line(known.get_all(field)) for field in ("License-Expression", "License"))
    stated = expression or ", ".join(classified) or licence
    return f"{name} {known['Version']}: {_join_lines(stated) or UNKNOWN}"


def _take_first_line(values: list[str] | None) -> str:
    return next(iter((values or [""])[0].strip().splitlines()), "")


def _join_lines(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
