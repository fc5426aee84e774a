"""LiteRT (TensorFlow Lite) with XNNPACK, its default on CPUs.

A `.tflite` file is a graph and its weights. Operators are those of the runtime, for no others are registered and no delegate is
loaded that could bring more, so a stranger's file runs nothing of its own.

Many files of others, quantized through and through, take and give int8. Contrary to the other runtimes this one therefore
converts: images are rounded by the scale and zero point that the file states, and logits scaled back.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

OUTPUTS = ("logits", "class", "score")
TASKS = Path("/proc/self/task")
"""One entry for each thread of this process, where the system tells."""


class Litert:
    """A `.tflite` file with its first signature's only input and output.

    Raises:
        ValueError: The file is damaged, takes other batches, has more than one input, or other outputs than logits and what
            may go with them.
        RuntimeError: Another number of threads than asked for runs.
    """

    inert: ClassVar[bool] = True
    package: ClassVar[str] = "ai-edge-litert"
    suffixes: ClassVar[tuple[str, ...]] = (".tflite",)

    @staticmethod
    def probe() -> str:
        """Convolve, multiply or rectify a few numbers; return version and what computed it.

        Raises:
            AssertionError: The result is wrong.
        """
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.interpreter import Interpreter

        x, y, relu, code = schema.TensorT(), schema.TensorT(), schema.OperatorT(), schema.OperatorCodeT()
        x.shape = y.shape = [2]
        relu.inputs, relu.outputs = [0], [1]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
        graph, model, content = schema.SubGraphT(), schema.ModelT(), flatbuffers.Builder(1024)
        graph.tensors, graph.inputs, graph.outputs, graph.operators = [x, y], [0], [1], [relu]
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
        content.Finish(model.Pack(content), b"TFL3")
        interpreter = Interpreter(model_content=bytes(content.Output()), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(0, np.array([-9, 9], np.float32))
        interpreter.invoke()
        result = interpreter.get_tensor(1).tolist()
        if result != [0, 9]:
            raise AssertionError(f"gives {result} instead of [0, 9]")
        return f"{importlib.metadata.version('ai-edge-litert')} CPU"

    @staticmethod
    def prepare() -> None:
        """Import ai_edge_litert."""
        importlib.import_module("ai_edge_litert.interpreter")

    def __init__(self, path: str, *, threads: int, batch_size: int | None) -> None:
        self.prepare()
        from ai_edge_litert.interpreter import Interpreter

        before = count_threads()
        self.interpreter = Interpreter(model_path=path, num_threads=threads)
        inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        self.places = self.find_outputs(outputs)
        if len(inputs) != 1 or not self.places:
            found = f"has {len(inputs)} inputs and {len(outputs)} outputs"
            raise ValueError(f"{found}; one of each is needed, or the outputs {', '.join(OUTPUTS)}")
        self.input, self.batch_size = inputs[0], batch_size or 1
        self.resize(batch_size)
        started = count_threads() - before
        if before and started != threads - 1:
            raise RuntimeError(f"asked for {threads} threads, LiteRT started {started} beside the caller's own")
        self.threads = threads

    def find_outputs(self, outputs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return what is known of each output by its name in the signature; nothing where these are not the known ones.

        A single output is the logits, whatever it is called, in files without a signature, too.
        """
        if len(outputs) == 1:
            return {"logits": outputs[0]}
        if len(outputs) != len(OUTPUTS) or not self.interpreter.get_signature_list():
            return {}
        found: dict[str, dict[str, Any]] = self.interpreter.get_signature_runner().get_output_details()
        same = {facts["index"] for facts in found.values()} == {facts["index"] for facts in outputs}
        return found if same and sorted(found) == sorted(OUTPUTS) else {}

    def resize(self, batch_size: int | None) -> None:
        """Set the size of a dynamic batch, and plan memory.

        Args:
            batch_size: `None` for a file that must take any; memory is then planned for one image, and anew for other sizes.

        Raises:
            ValueError: The file is made for another batch size.
        """
        made_for, *shape = (int(size) for size in self.input["shape_signature"])
        if made_for not in {-1, batch_size}:
            wanted = f"is made for batches of {made_for}, not {batch_size or 'any number'}"
            raise ValueError(f"{wanted}; export it with a dynamic batch")
        if made_for == -1:
            self.batch_size = batch_size or 1
            self.interpreter.resize_tensor_input(self.input["index"], [self.batch_size, *shape])
        self.interpreter.allocate_tensors()

    @staticmethod
    def parts(path: str) -> tuple[str, ...]:
        """Return the file itself: it has no others."""
        return (path,)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [batch, classes] for images [batch, channels, height, width]."""
        return self.outputs(images)["logits"]

    def outputs(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output of images [batch, channels, height, width] by its name; the values are copies."""
        if len(images) != self.batch_size:
            self.resize(len(images))
        self.interpreter.set_tensor(self.input["index"], round_to_type(images, self.input))
        self.interpreter.invoke()
        return {
            name: scale_to_floats(self.interpreter.get_tensor(facts["index"]), facts) for name, facts in self.places.items()
        }

    def effective(self) -> dict[str, Any]:
        """Return what is known; the precision is that of the file, and LiteRT tells nothing of its delegates."""
        return {
            "provider": "LiteRT CPU, XNNPACK where it can",
            "threads": self.threads,
            "precision": "as in the file",
            "version": importlib.metadata.version("ai-edge-litert"),
        }


def count_threads() -> int:
    """Return the number of threads of this process, or 0 where the system does not tell."""
    return len(list(TASKS.iterdir())) if TASKS.is_dir() else 0


def round_to_type(images: NDArray[np.float32], facts: dict[str, Any]) -> NDArray[Any]:
    """Return images [batch, ...] as the file takes them: as they are, or rounded to its integers.

    Raises:
        ValueError: The file takes another type and tells no scale to round by.
    """
    kind = np.dtype(facts["dtype"])
    if kind == images.dtype:
        return images
    scale, zero = facts["quantization"]
    if kind.kind not in "iu" or not scale:
        raise ValueError(f"takes {kind}, not {images.dtype}")
    limits = np.iinfo(kind)
    integers: NDArray[Any] = np.clip(np.round(images / np.float32(scale)) + zero, limits.min, limits.max).astype(kind)
    return integers


def scale_to_floats(logits: NDArray[Any], facts: dict[str, Any]) -> NDArray[np.float32]:
    """Return logits [batch, classes] as float32, which a file may give as integers with a scale."""
    scale, zero = facts["quantization"]
    if logits.dtype.kind not in "iu" or not scale:
        return logits
    floats: NDArray[np.float32] = (logits.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return floats
