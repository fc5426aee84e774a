"""The contract of an inference runtime.

A runtime file is self-contained: it may import the standard library, numpy and its runtime, and nothing of ours, because the
runner loads it by path, here and on a device that has nothing else. It holds a class named after the file.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """One loaded file, ready to be run.

    Constructing it loads and compiles the file: `Runtime(path, threads=1, batch_size=1)`. `batch_size` is what will be fed;
    a runtime that gains from a fixed shape may use it. A constructor that cannot honour `threads` or the file's precision
    raises instead of running something else.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """File names that this runtime opens, for example `(".onnx",)`."""

    def __init__(self, path: str, *, threads: int, batch_size: int) -> None: ...

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [batch, classes] for images [batch, channels, height, width]; the result is the caller's own memory."""

    def effective(self) -> dict[str, Any]:
        """Return what really runs, as the runtime reports it after loading: provider, inference precision, threads, version."""
