"""Third parties that talk while they work, kept quiet; their errors still arrive as exceptions."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any


def openvino() -> Any:
    """Return the package `openvino`, imported without its telemetry."""
    if "openvino" not in sys.modules:
        kept = {name: module for name, module in sys.modules.items() if name == "openvino_telemetry"}
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells a package that is missing
        try:
            import openvino  # noqa: F401  (returned below)
        finally:
            del sys.modules["openvino_telemetry"]
            sys.modules.update(kept)
    return sys.modules["openvino"]


@contextmanager
def tracer() -> Iterator[None]:
    """Silence torch's tracer and converter: log lines, one warning of their own, graphs printed on failure."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            # torch 2.13 meets its own deprecation when it copies a program
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
