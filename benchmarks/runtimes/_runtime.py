"""The contract of an inference runtime.

A runtime file is self-contained: the runner loads it by path, here and on a device that has nothing else, so it imports the
standard library and numpy at the top, its runtime inside functions, and nothing of ours. It holds a class named after the
file. One that can also time files of other tools has a static method `open_foreign(path, *, threads)`, whose result is called
with inputs by name and has `effective`. One that tells the time of single layers has a static method
`profile(path, *, threads, batches, calls)`. Everything that a runtime raises is shown to the user as it is, with the name of
the file that was being run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Runtime(Protocol):
    """One loaded file, ready to be run.

    Constructing it loads and compiles the file. A constructor that cannot honour `threads`, `batch_size` or the file's
    precision raises instead of running something else.
    """

    inert: ClassVar[bool]
    """Whether opening a file that a stranger made runs nothing that it brings."""
    package: ClassVar[str]
    """Distribution that brings the runtime, as one installs it."""
    suffixes: ClassVar[tuple[str, ...]]
    """Endings of the files that this runtime opens, for example `(".onnx",)`; no two runtimes share one."""

    @staticmethod
    def probe() -> str:
        """Run one inference of a file made for it; return version and devices or capabilities in a line.

        Raises:
            AssertionError: It computed something else.
        """

    @staticmethod
    def prepare() -> None:
        """Import the runtime's package, so that its import is not counted as loading a file."""

    def __init__(self, path: str, *, threads: int, batch_size: int | None) -> None:
        """Load `path`; every call will bring exactly `batch_size` images, or any number where that is `None`."""

    @staticmethod
    def parts(path: str) -> tuple[str, ...]:
        """Return every file that belongs to `path`, itself first; all lie in its folder and travel together."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [batch, classes] for images [batch, channels, height, width]; the result is the caller's own memory."""

    def outputs(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output of images [batch, channels, height, width] by its name, in the file's own types.

        These are `logits`, and of files that have them `class` and `score`, each [batch], or `class` alone,
        [batch, height, width]; files with others are refused.
        """

    def effective(self) -> dict[str, Any]:
        """Return what really runs, as the runtime reports it after loading: provider, precision, threads, version."""
