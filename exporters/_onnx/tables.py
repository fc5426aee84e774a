"""Reuse of the tables from which torch translates networks into ONNX.

torch fills them anew for every export, one of them from the sources of several hundred functions, which takes longer than the
translation of a small network. Within `reuse_tables()` they are filled once for each opset and process.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_known: dict[tuple[Any, ...], Any] = {}


@contextmanager
def reuse_tables() -> Iterator[None]:
    """Let exports within this context share their tables; other code in the process sees nothing of it."""
    try:
        from torch._export import utils
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        build = ONNXRegistry.from_torchlib
        load_operators = utils._materialize_cpp_cia_ops
    except (ImportError, AttributeError):  # private: where a later torch has moved them, exports are the same and take longer
        yield
        return
    original = ONNXRegistry.__dict__["from_torchlib"]

    def find(*options: Any, **named: Any) -> Any:
        key = (*options, *sorted(named.items()))
        if key not in _known:
            _known[key] = build(*options, **named)
        own = copy.copy(_known[key])
        if not hasattr(own, "functions"):  # as above: a later torch keeps them elsewhere
            return build(*options, **named)
        own.functions = {target: list(functions) for target, functions in own.functions.items()}
        return own

    ONNXRegistry.from_torchlib = staticmethod(find)  # type: ignore[method-assign]
    utils._materialize_cpp_cia_ops = cache(load_operators)  # what is loaded stays loaded
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]
        utils._materialize_cpp_cia_ops = load_operators
