"""Render a C++ program for OpenVINO that runs a bundle's file, and the CMake file that builds it.

The program is generated for one bundle, with its sizes, classes and normalisation as constants, so it needs no JSON reader. The
same manifest always gives the same text, so that a bundle's program can be compared with what this version would write.
"""

from __future__ import annotations

from compress.preprocess import compute_scale_shift
from compress.records import BundleFile, Manifest
from compress.tasks import MOST_CANDIDATES, MOST_DETECTIONS, MOST_OVERLAP, SHOWN_SCORE
from exporters.bundle.readme import describe_geometry, find_kind

SOURCE, BUILD = "cpp/example.cpp", "cpp/CMakeLists.txt"
CMAKE = """\
# See the README of the bundle for the command.
cmake_minimum_required(VERSION 3.13)
project(example LANGUAGES CXX)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
find_package(OpenVINO REQUIRED COMPONENTS Runtime)
add_executable(example example.cpp)
target_link_libraries(example PRIVATE openvino::runtime)
"""


def build_cpp(manifest: Manifest) -> dict[str, str]:
    """Build the text of each file of `cpp/` by its path in the bundle; none without a file for OpenVINO."""
    files, kind = [file for file in manifest.files if file.runtime == "openvino"], find_kind(manifest)
    return {SOURCE: _render_source(manifest, files[0], kind), BUILD: CMAKE} if files and kind else {}


def _render_source(manifest: Manifest, file: BundleFile, kind: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pre, shape = manifest.preprocess, manifest.shape
    scale, shift = compute_scale_shift(pre)
    sizes = {"maps": dict(zip(("rows", "columns"), shape[1:], strict=False)), "boxes": {"cells": shape[0]}}.get(kind, {})
    loader = PackageLoader("exporters.bundle", package_path="programs")
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 (no HTML)
    return environment.get_template("main.cpp.j2").render(
        kind=kind,
        **sizes,
        least_score=SHOWN_SCORE,
        most_overlap=MOST_OVERLAP,
        most_candidates=MOST_CANDIDATES,
        most_objects=MOST_DETECTIONS,
        file=file.path,
        height=pre.height,
        width=pre.width,
        channels=pre.depth,
        batch=file.batch_size or 1,
        takes_pixels=file.takes_pixels,
        output=manifest.output,
        classes=[escape_literal(name) for name in manifest.classes],
        scale=[_format_float(value) for value in scale.tolist()],
        temperature=f"{file.temperature or 1.0:.9e}",
        shift=[_format_float(value) for value in shift.tolist()],
        geometry=describe_geometry(pre)[0].lower() + describe_geometry(pre)[1:],
        black=pre.black_level,
        white=pre.white_level,
    )


def escape_literal(text: str) -> str:
    """Escape a text for a C++ string literal: each byte that is no ASCII letter, digit, space, hyphen or dot becomes octal."""
    return "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in " -_.") else f"\\{byte:03o}"
        for byte in text.encode("utf-8", errors="replace")
    )


def _format_float(value: float) -> str:
    return f"{value:.9e}f"
