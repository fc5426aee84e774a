"""OpenVINO on the CPU, in float32, with the threads that were asked for.

Three defaults would make its numbers incomparable, so they are set and read back after compiling: on recent CPUs it computes
float32 files in bfloat16; it pins threads, so that two processes of one thread each share one core and halve; and it may
open several streams. It opens only its own IR: an ONNX file belongs to ONNX Runtime, so one file is gated on one runtime.

`infer(images)` passes through OpenVINO's dispatcher in Python, 30 µs on a fast machine and 140 µs on a busy one, which no
C++ application pays. So images are copied into the request's own memory, and `infer()` is called without any.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

OUTPUTS = ("logits", "class", "score")
OF_DETECTOR = ("logits", "boxes")
OF_MAPS = ("logits", "class")
"""What a file of maps of logits gives that also gives the class of every pixel."""


class Openvino:
    """An OpenVINO IR on the CPU; a dynamic batch is fixed to `batch_size`, which is faster on small networks.

    Raises:
        ValueError: The file has another batch size, more than one input, or other outputs than logits and what may go with
            them.
        RuntimeError: Another precision, number of threads or streams, or pinning than asked for would run.
    """

    inert: ClassVar[bool] = True
    package: ClassVar[str] = "openvino"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    @staticmethod
    def probe() -> str:
        """Convolve, multiply or rectify a few numbers; return version and what computed it.

        Raises:
            AssertionError: The result is wrong.
        """
        Openvino.prepare()
        import openvino
        from openvino import opset13

        x, core = opset13.parameter([2], np.float32), openvino.Core()
        model = openvino.Model([opset13.relu(x)], [x], "probe")
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        result = compiled(np.array([-9, 9], np.float32))[0].tolist()
        if result != [0, 9]:
            raise AssertionError(f"gives {result} instead of [0, 9]")
        return " ".join([openvino.__version__.partition("-")[0], *core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")])

    @staticmethod
    def prepare() -> None:
        """Import openvino without its telemetry, which is on until a user opts out.

        OpenVINO itself falls back to a stub where the telemetry package is not installed; here it looks as if it were not.
        """
        known = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells a package that is missing
        try:
            importlib.import_module("openvino")
        finally:
            del sys.modules["openvino_telemetry"]
            if known is not None:
                sys.modules["openvino_telemetry"] = known

    def __init__(self, path: str, *, threads: int, batch_size: int | None) -> None:
        self.prepare()
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        self.names = find_names([output.get_names() for output in model.outputs])
        if len(model.inputs) != 1 or not self.names:
            found = f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs"
            raise ValueError(f"{found}; one of each is needed, or the outputs {', '.join(OUTPUTS)}")
        shape = model.input(0).partial_shape
        if shape[0].is_static and shape[0].get_length() != batch_size:
            wanted = f"is made for batches of {shape[0].get_length()}, not {batch_size or 'any number'}"
            raise ValueError(f"{wanted}; export it with a dynamic batch")
        if batch_size is not None:
            shape[0] = batch_size
            model.reshape(shape)
        self.compiled, self.properties = compile_model(core, model, threads)
        self.request = self.compiled.create_infer_request()
        self.input = self.request.get_input_tensor(0).data
        place = self.names.index("logits")
        fixed = self.compiled.output(place).partial_shape.is_static
        self.logits = self.request.get_output_tensor(place).data if fixed else None

    @staticmethod
    def profile(path: str, *, threads: int, batches: list[Any], calls: int) -> list[dict[str, Any]]:
        """Return the layers that ran, each with its kind, its kernel and its nanoseconds in each call.

        Args:
            path: The file.
            threads: Threads of the runtime.
            batches: What it is fed in turn, [batch, ...] or by the names of its inputs.
            calls: How often.
        """
        Openvino.prepare()
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        fed = [list(each.values()) if isinstance(each, dict) else [each] for each in batches]
        model.reshape({place: list(values.shape) for place, values in enumerate(fed[0])})
        request = compile_model(core, model, threads, profile=True)[0].create_infer_request()
        found: dict[str, dict[str, Any]] = {}
        for number in range(calls):
            request.infer(fed[number % len(fed)])
            for each in request.profiling_info:
                if each.status == each.Status.EXECUTED:
                    layer = {"name": each.node_name, "kind": each.node_type, "kernel": each.exec_type, "ns": []}
                    found.setdefault(each.node_name, layer)["ns"].append(round(1e9 * each.real_time.total_seconds()))
        return list(found.values())

    @staticmethod
    def parts(path: str) -> tuple[str, ...]:
        """Return the graph and, beside it, its weights."""
        return (path, str(Path(path).with_suffix(".bin")))

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [batch, classes] of images [batch, channels, height, width]; of a detector with boxes behind them.

        Raises:
            ValueError: The file takes images of another shape or type.
        """
        self._infer(images)
        if "boxes" in self.names:
            return np.concatenate([self._read(name) for name in OF_DETECTOR], axis=2)
        logits: NDArray[np.float32] = self._read("logits") if self.logits is None else self.logits.copy()
        return logits

    def outputs(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output of images [batch, channels, height, width] by its name, in the file's own types.

        Raises:
            ValueError: The file takes images of another shape or type.
        """
        self._infer(images)
        return {name: self._read(name) for name in self.names}

    def _infer(self, images: NDArray[Any]) -> None:
        """Copy images [batch, ...] into the request's own memory and run it."""
        if images.shape != self.input.shape or images.dtype != self.input.dtype:
            self._accept(images)
        self.input[:] = images
        self.request.infer(share_outputs=True)

    def _accept(self, images: NDArray[Any]) -> None:
        """Resize the input's memory for images [batch, ...] where the file leaves their size open.

        Raises:
            ValueError: The file takes images of another shape or type.
        """
        wanted, shape = self.compiled.input(0).partial_shape, list(images.shape)
        if not (wanted.compatible(type(wanted)(shape)) and np.can_cast(images.dtype, self.input.dtype, "same_kind")):
            found = f"{shape} {images.dtype}"
            raise ValueError(f"takes images {wanted} {self.input.dtype}, not {found}; give it images of that size and type")
        if images.shape != self.input.shape:
            tensor = self.request.get_input_tensor(0)
            tensor.shape = shape
            self.input = tensor.data

    def _read(self, name: str) -> NDArray[Any]:
        """Return a copy of an output, for the next call overwrites the request's own memory."""
        values: NDArray[Any] = self.request.get_output_tensor(self.names.index(name)).data
        return values.copy()

    def effective(self) -> dict[str, Any]:
        """Return what the compiled model reports."""
        return describe_compiled(self.compiled, self.properties)

    @staticmethod
    def open_foreign(path: str, *, threads: int) -> Foreign:
        """Return a file of another tool, which any inputs and outputs may have."""
        return Foreign(path, threads=threads)


class Foreign:
    """An OpenVINO IR with any inputs and outputs, which is timed only.

    Raises:
        RuntimeError: Another precision, number of threads or streams, or pinning than asked for would run.
    """

    def __init__(self, path: str, *, threads: int) -> None:
        Openvino.prepare()
        import openvino

        core = openvino.Core()
        self.compiled, self.properties = compile_model(core, core.read_model(path), threads)
        self.request = self.compiled.create_infer_request()

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> None:
        """Compute every output for inputs [...] in their order."""
        for place, values in enumerate(inputs.values()):
            tensor = self.request.get_input_tensor(place)
            if tuple(tensor.shape) != values.shape:
                tensor.shape = values.shape
            tensor.data[...] = values
        self.request.infer(share_outputs=True)

    def effective(self) -> dict[str, Any]:
        """Return what the compiled model reports."""
        return describe_compiled(self.compiled, self.properties)


def compile_model(core: Any, model: Any, threads: int, *, profile: bool = False) -> tuple[Any, dict[str, Any]]:
    """Return a model compiled for the CPU, and the properties that it then reports.

    Raises:
        RuntimeError: Another precision, number of threads or streams, or pinning than asked for would run.
    """
    asked = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(model, "CPU", asked | {"PERF_COUNT": True} if profile else asked)
    found = {key: _read_property(compiled, key) for key in asked}
    wrong = {key: value for key, value in found.items() if value != asked[key]}
    if wrong:
        raise RuntimeError(f"asked for { ({key: asked[key] for key in wrong}) }, OpenVINO runs {wrong}")
    return compiled, found


def describe_compiled(compiled: Any, properties: dict[str, Any]) -> dict[str, Any]:
    """Return what really runs."""
    import openvino

    return {
        "provider": ",".join(compiled.get_property("EXECUTION_DEVICES")),
        "threads": properties["INFERENCE_NUM_THREADS"],
        "precision": properties["INFERENCE_PRECISION_HINT"],
        "streams": properties["NUM_STREAMS"],
        "pinning": properties["ENABLE_CPU_PINNING"],
        "version": openvino.get_version(),
    }


def _read_property(compiled: Any, key: str) -> Any:
    value = compiled.get_property(key)
    return value.get_type_name() if hasattr(value, "get_type_name") else value


def find_names(found: list[set[str]]) -> list[str]:
    """Return what a file's outputs are: the logits if there is one, whatever it is called; nothing where that is not known."""
    if len(found) == 1:
        return ["logits"]
    names = [next((name for name in (*OUTPUTS, *OF_DETECTOR) if name in known), "") for known in found]
    return names if sorted(names) in (sorted(OUTPUTS), sorted(OF_DETECTOR), sorted(OF_MAPS)) else []
