"""Import third-party packages without their telemetry, and silence their logs; their errors still arrive as exceptions."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any


def import_openvino() -> Any:
    """Return the package `openvino`, imported without its telemetry."""
    if "openvino" not in sys.modules:
        with _without_telemetry():
            import openvino  # noqa: F401  (returned below)
    return sys.modules["openvino"]


def import_onnxruntime() -> Any:
    """Return the package `onnxruntime`, imported without its telemetry, unless ORT_DISABLE_TELEMETRY says otherwise.

    With telemetry, the package leaves a device id and a database of events in the user's cache and looks up the vendor's host.
    Call it before anything is imported from a module of that package.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def import_nncf() -> Any:
    """Return the package `nncf`, imported without its telemetry and without its class becoming that of all later loggers."""
    if "nncf" not in sys.modules:
        import_openvino()
        kept = logging.getLoggerClass()
        try:
            with _without_telemetry():
                import nncf  # noqa: F401  (returned below)
        finally:
            logging.setLoggerClass(kept)
    return sys.modules["nncf"]


@contextmanager
def silence_nncf() -> Iterator[None]:
    """Silence nncf, which writes log lines and progress bars to stdout."""
    import rich

    logger, console = logging.getLogger("nncf"), rich.get_console()  # the bars are drawn on rich's own console
    level, quiet = logger.level, console.quiet
    logger.setLevel(logging.CRITICAL)
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = quiet
        logger.setLevel(level)


@contextmanager
def silence_root_logger() -> Iterator[None]:
    """Silence what writes to the root logger, as onnxruntime's quantizer does: Python would install a handler for it."""
    root, handler, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)


@contextmanager
def keep_root_logger() -> Iterator[None]:
    """Keep the root logger, whose level, filters and handlers OpenVINO's converter leaves changed where it fails."""
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


@contextmanager
def silence_tracer() -> Iterator[None]:
    """Silence torch's tracer and converter: log lines, one warning of their own, graphs printed on failure.

    Nor does the tracer then write down for each of its nodes, of which most are thrown away, which lines of Python led to it:
    nobody reads that, and it took a third of the time of an export.
    """
    import torch.fx.config as tracing

    logger = logging.getLogger("torch")
    level, records_no_lines = logger.level, getattr(tracing, "do_not_emit_stack_traces", False)
    logger.setLevel(logging.CRITICAL)
    tracing.do_not_emit_stack_traces = True  # a torch that does not know it sees nothing of it
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            # torch 2.13 meets its own deprecation when it copies a program
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
            yield
    finally:
        tracing.do_not_emit_stack_traces = records_no_lines
        logger.setLevel(level)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Let the package `openvino_telemetry` look missing, so that who imports it takes a stub that sends and writes nothing."""
    kept = {name: module for name, module in sys.modules.items() if name == "openvino_telemetry"}
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells a package that is missing
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]
        sys.modules.update(kept)
