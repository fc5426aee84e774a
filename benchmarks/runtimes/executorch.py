"""ExecuTorch with XNNPACK.

It takes all cores until it is told otherwise, so the threads are set and read back. A `.pte` may hold blobs for any backend
that the runtime was built with. XNNPACK's are graphs and weights; those of accelerators may be compiled code or start other
libraries. So a file that names another backend is refused before anything in it is opened, and the rest is verified.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import mmap
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

BACKEND = "XnnpackBackend"
OUTPUTS = ("logits", "class", "score")
UINT8 = 0
"""What ExecuTorch calls that type."""


class Executorch:
    """A `.pte` file on portable operators and XNNPACK.

    Raises:
        ValueError: The file names another backend, takes other batches, or has more than one input, or other outputs than
            logits and what may go with them.
        RuntimeError: It is damaged, or another number of threads than asked for would run.
    """

    inert: ClassVar[bool] = True
    package: ClassVar[str] = "executorch"
    suffixes: ClassVar[tuple[str, ...]] = (".pte",)

    @staticmethod
    def probe() -> str:
        """Convolve, multiply or rectify a few numbers; return version and what computed it.

        Raises:
            AssertionError: The result is wrong.
        """
        library = import_bindings()
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = torch.tensor([[-9.0, 9.0]])
            traced = torch.export.export(torch.nn.ReLU(), (x,))
            content = to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
        program = library._load_for_executorch_from_buffer(content)
        result = program.run_method("forward", [x])[0].numpy().ravel().tolist()
        if result != [0, 9]:
            raise AssertionError(f"gives {result} instead of [0, 9]")
        return " ".join([importlib.metadata.version("executorch"), *library._get_registered_backend_names()])

    @staticmethod
    def prepare() -> None:
        """Import executorch; torch comes with it."""
        import_bindings()

    def __init__(self, path: str, *, threads: int, batch_size: int | None) -> None:
        import torch

        library = import_bindings()
        refuse_other_backends(Path(path), library._get_registered_backend_names())
        if library._threadpool_get_thread_count() != threads:
            library._unsafe_reset_threadpool(threads)
        self.threads = library._threadpool_get_thread_count()
        if self.threads != threads:
            raise RuntimeError(f"asked for {threads} threads, ExecuTorch runs {self.threads}")
        strict = library.Verification.InternalConsistency
        self.program = library._load_program(path, program_verification=strict)  # the method lives in its memory
        self.method = self.program.load_method("forward")
        facts = self.method.method_meta()
        ranks = [len(facts.output_tensor_meta(place).sizes()) for place in range(facts.num_outputs())]
        if facts.num_inputs() != 1 or (len(ranks) != 1 and ranks != [2, 1, 1]):
            found = f"has {facts.num_inputs()} inputs and {len(ranks)} outputs"
            raise ValueError(f"{found}; one of each is needed, or the outputs {', '.join(OUTPUTS)}")
        self.input = facts.input_tensor_meta(0)
        self.from_numpy = torch.from_numpy
        if batch_size is not None:
            self._check_batch(batch_size)

    def _check_batch(self, batch_size: int) -> None:
        """Let the runtime refuse a batch size before it computes anything; it reports only the largest that it takes.

        Raises:
            ValueError: The file is made for other batches.
        """
        import torch

        largest, *shape = self.input.sizes()
        kind = torch.uint8 if self.input.dtype() == UINT8 else torch.float32
        try:
            self.method.set_inputs([torch.zeros(batch_size, *shape, dtype=kind)])
        except RuntimeError as error:
            wanted = f"is made for batches of {largest}, not {batch_size}"
            raise ValueError(f"{wanted}; export it with a dynamic batch, or with batch: {batch_size}") from error

    @staticmethod
    def parts(path: str) -> tuple[str, ...]:
        """Return the file itself: it has no others."""
        return (path,)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [batch, classes] for images [batch, channels, height, width]."""
        array: NDArray[np.float32] = self.method([self.from_numpy(images)])[0].numpy()  # outputs are copies
        return array

    def outputs(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output of images [batch, channels, height, width]; this format knows them by place, not by name."""
        return {name: found.numpy() for name, found in zip(OUTPUTS, self.method([self.from_numpy(images)]))}  # noqa: B905 (Python 3.9)

    def effective(self) -> dict[str, Any]:
        """Return what the runtime reports; the precision is that of the file, XNNPACK changes none."""
        version = importlib.import_module("executorch.version").__version__
        return {
            "provider": f"{BACKEND}, portable operators",
            "threads": self.threads,
            "precision": "as in the file",
            "version": version,
        }


def import_bindings() -> Any:
    """Return the runtime, imported without its warning that its Python interface may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("executorch.extension.pybindings.portable_lib")


def refuse_other_backends(path: Path, registered: list[str]) -> None:
    """Refuse a program that names a backend of this runtime that is not XNNPACK.

    The runtime finds a backend by its name, which stands in the file as it is.

    Raises:
        ValueError: It names another one, or is empty.
    """
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name in registered:
            if name != BACKEND and content.find(name.encode()) >= 0:
                raise ValueError(f"has work for {name}, and only {BACKEND} is known to run nothing that a file brings")
