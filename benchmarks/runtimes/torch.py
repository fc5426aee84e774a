"""PyTorch, operator by operator: the network as `torch.export` wrote it, without a compiler.

This is the eager baseline, so what `torch.export` adds to every call is taken off: its generated input checks cost 10 to 20 %
on small networks, the plain graph 0 to 7 % over the user's own module (ResNet-8 to -32, 32×32, one thread).

Opening a `.pt2` can run code: torch unpickles parts of it, falling back to the unrestricted pickle, loads compiled libraries,
and evaluates shapes and names as Python. The first two doors are closed here; the third is torch's own. Open only files that
you made or whose checksum you trust.
"""

from __future__ import annotations

import importlib
import json
import os
import zipfile
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

RESTRICTED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch's switch that makes every `torch.load` restricted, also those that ask for the opposite."""


class Torch:
    """A `.pt2` file, run on the CPU.

    Raises:
        ValueError: The file holds pickled objects or compiled code, another batch size, or more than one input or output.
        RuntimeError: torch does not take the number of threads.
    """

    inert: ClassVar[bool] = False
    package: ClassVar[str] = "torch"
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)

    @staticmethod
    def probe() -> str:
        """Convolve, multiply or rectify a few numbers; return version and what computed it.

        Raises:
            AssertionError: The result is wrong.
        """
        import torch

        sums = torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
        result = sums.numpy().ravel().tolist()
        if result != [9]:
            raise AssertionError(f"gives {result} instead of [9]")
        return f"{torch.__version__} {'CUDA' if torch.cuda.is_available() else 'CPU'}"

    @staticmethod
    def prepare() -> None:
        """Import torch, and what it imports late."""
        importlib.import_module("torch.export.pt2_archive")

    def __init__(self, path: str, *, threads: int, batch_size: int | None) -> None:
        import torch
        from torch.fx.graph import CodeGen

        torch.set_num_threads(threads)
        if torch.get_num_threads() != threads:
            raise RuntimeError(f"asked for {threads} threads, torch runs {torch.get_num_threads()}")
        program = load_restricted(path)
        inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
        if len(inputs) != 1 or len(outputs) not in {1, 2}:
            found = f"has {len(inputs)} inputs and {len(outputs)} outputs"
            raise ValueError(f"{found}; one of each is needed, or the outputs logits and boxes of a detector")
        made_for = next(node for node in program.graph.nodes if node.name == inputs[0]).meta["val"].shape[0]
        if isinstance(made_for, int) and made_for != batch_size:
            wanted = f"is made for batches of {made_for}, not {batch_size or 'any number'}"
            raise ValueError(f"{wanted}; export it with a dynamic batch")
        module = program.module()
        module.graph.set_codegen(CodeGen())
        module.recompile()
        self.torch, self.forward = torch, module.forward
        self.precisions = sorted({str(weight.dtype).removeprefix("torch.") for weight in module.parameters()})

    @staticmethod
    def parts(path: str) -> tuple[str, ...]:
        """Return the file itself: it has no others."""
        return (path,)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [batch, classes] of images [batch, channels, height, width]; of a detector with boxes behind them."""
        with self.torch.inference_mode():
            logits, *boxes = self.forward(self.torch.from_numpy(images))
            whole = self.torch.cat([logits, *boxes], dim=2) if boxes else logits
        array: NDArray[np.float32] = whole.numpy()
        return array

    def outputs(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the logits [batch, classes] of images [batch, channels, height, width]; such files give nothing else."""
        return {"logits": self(images)}

    def effective(self) -> dict[str, Any]:
        """Return what torch reports; the precision is that of the weights."""
        return {
            "provider": "torch.export graph, eager operators",
            "threads": self.torch.get_num_threads(),
            "precision": ",".join(self.precisions),
            "version": self.torch.__version__,
        }


def load_restricted(path: str) -> Any:
    """Return the exported program, opened without unpickling objects or loading compiled code.

    Raises:
        ValueError: It is no `.pt2` archive, or opening it would do either.
    """
    import torch

    if not zipfile.is_zipfile(path):
        raise ValueError("is not a .pt2 archive; write it with torch.export.save")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            payloads = json.loads(archive.read(name))["config"].values() if name.endswith("_config.json") else ()
            if "data/aotinductor/" in name or any("obj_" in payload["path_name"] for payload in payloads):
                raise ValueError(f"holds objects or compiled code ({name}); export it with plain tensors only")
    before = os.environ.get(RESTRICTED)
    os.environ[RESTRICTED] = "1"
    try:
        return torch.export.load(path)
    finally:
        del os.environ[RESTRICTED]
        if before is not None:
            os.environ[RESTRICTED] = before
