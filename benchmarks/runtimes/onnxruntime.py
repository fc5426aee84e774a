"""ONNX Runtime on its CPU execution provider.

Graph optimisation stays at the default, which is what an application gets. A file with external data is refused: exports are
self-contained, and a stranger's file must not make us read others.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import re
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

# TensorProto.external_data (field 13) whose key is "location", with the value behind it, as protobuf writes it, or before it,
# which protobuf reads too: found without the package onnx.
EXTERNAL_DATA = re.compile(rb"\x6a[\x00-\xff]{1,2}(\x0a\x08location\x12|\x12[\x00-\xff]{1,4096}?\x0a\x08location)")
KERNEL = "_kernel_time"
"""How ONNX Runtime ends the name of an operator's time."""
OUTPUTS = ("logits", "class", "score")
OF_DETECTOR = ("logits", "boxes")
OF_MAPS = ("logits", "class")
"""What a file of maps of logits gives that also gives the class of every pixel."""
PROVIDER = "CPUExecutionProvider"


class Onnxruntime:
    """An ONNX file on the CPU execution provider.

    Raises:
        ValueError: The file has external data, another batch size, more than one input, or other outputs than logits and
            what may go with them.
        RuntimeError: Another provider or number of threads than asked for would run.
    """

    inert: ClassVar[bool] = True
    package: ClassVar[str] = "onnxruntime"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)

    @staticmethod
    def probe() -> str:
        """Convolve, multiply or rectify a few numbers; return version and what computed it.

        Raises:
            AssertionError: The result is wrong.
        """
        Onnxruntime.prepare()
        import onnxruntime
        from onnx import TensorProto, helper

        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[PROVIDER])
        result = session.run(None, {"x": np.array([-9, 9], np.float32)})[0].tolist()
        if result != [0, 9]:
            raise AssertionError(f"gives {result} instead of [0, 9]")
        return " ".join([onnxruntime.__version__, *onnxruntime.get_available_providers()])

    @staticmethod
    def prepare() -> None:
        """Import onnxruntime without its telemetry.

        Where it is built in, it leaves a device id and a database of events in the user's cache and looks up the vendor's host.
        """
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        importlib.import_module("onnxruntime")

    def __init__(self, path: str, *, threads: int, batch_size: int | None) -> None:
        refuse_external_data(Path(path))
        self.session = open_session(path, threads)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.names = find_names([output.name for output in outputs])
        if len(inputs) != 1 or not self.names:
            found = f"has {len(inputs)} inputs and {len(outputs)} outputs"
            raise ValueError(f"{found}; one of each is needed, or the outputs {', '.join(OUTPUTS)}")
        if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != batch_size:
            wanted = f"is made for batches of {inputs[0].shape[0]}, not {batch_size or 'any number'}"
            raise ValueError(f"{wanted}; export it with a dynamic batch")
        self.input = inputs[0].name

    @staticmethod
    def open_foreign(path: str, *, threads: int) -> Foreign:
        """Return a file of another tool, which any inputs and outputs may have; what it reads beside it was checked before."""
        return Foreign(path, threads=threads)

    @staticmethod
    def profile(path: str, *, threads: int, batches: list[Any], calls: int) -> list[dict[str, Any]]:
        """Return the operators that ran, each with its kind, its kernel's name and its nanoseconds in each call.

        Args:
            path: The file.
            threads: Threads of the runtime.
            batches: What it is fed in turn, [batch, ...] or by the names of its inputs.
            calls: How often.
        """
        with tempfile.TemporaryDirectory() as folder:
            session = open_session(path, threads, profile=str(Path(folder) / "profile"))
            name = session.get_inputs()[0].name
            for number in range(calls):
                fed = batches[number % len(batches)]
                session.run(None, fed if isinstance(fed, dict) else {name: fed})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        found: dict[str, dict[str, Any]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
                told = event["args"]
                layer = {"name": event["name"][: -len(KERNEL)], "kind": told["op_name"], "kernel": told["provider"], "ns": []}
                found.setdefault(told.get("node_index", event["name"]), layer)["ns"].append(1000 * event["dur"])
        return list(found.values())

    @staticmethod
    def parts(path: str) -> tuple[str, ...]:
        """Return the file itself: it has no others."""
        return (path,)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [batch, classes] of images [batch, channels, height, width]; of a detector with boxes behind them."""
        found = self.session.run(None, {self.input: images})
        logits: NDArray[np.float32] = found[self.names.index("logits")]
        return np.concatenate([logits, found[self.names.index("boxes")]], axis=2) if "boxes" in self.names else logits

    def outputs(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every output of images [batch, channels, height, width] by its name, in the file's own types."""
        return dict(zip(self.names, self.session.run(None, {self.input: images})))  # noqa: B905 (Python 3.9)

    def effective(self) -> dict[str, Any]:
        """Return provider, threads and version; the precision is that of the file, ONNX Runtime changes none."""
        return describe_session(self.session)


class Foreign:
    """An ONNX file with any inputs and outputs, which is timed only.

    Raises:
        RuntimeError: Another provider than asked for would run.
    """

    def __init__(self, path: str, *, threads: int) -> None:
        self.session = open_session(path, threads)

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> list[Any]:
        """Return every output for inputs [...] by their names."""
        outputs: list[Any] = self.session.run(None, inputs)
        return outputs

    def effective(self) -> dict[str, Any]:
        """Return provider, threads and version."""
        return describe_session(self.session)


def open_session(path: str, threads: int, *, profile: str | None = None) -> Any:
    """Return a session on the CPU.

    Args:
        path: The file.
        threads: Threads of the runtime.
        profile: Where the time of every operator is written, if at all.

    Raises:
        RuntimeError: Another provider would run.
    """
    Onnxruntime.prepare()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    session = onnxruntime.InferenceSession(path, options, providers=[PROVIDER])
    if session.get_providers() != [PROVIDER]:
        raise RuntimeError(f"asked for {PROVIDER}, got {session.get_providers()}")
    return session


def describe_session(session: Any) -> dict[str, Any]:
    """Return provider, threads and version of a session."""
    import onnxruntime

    return {
        "provider": session.get_providers()[0],
        "threads": session.get_session_options().intra_op_num_threads,
        "precision": "as in the file",
        "version": onnxruntime.__version__,
    }


def find_names(found: list[str]) -> list[str]:
    """Return what a file's outputs are: the logits if there is one, whatever it is called; nothing where that is not known."""
    if len(found) == 1:
        return ["logits"]
    return found if sorted(found) in (sorted(OUTPUTS), sorted(OF_DETECTOR), sorted(OF_MAPS)) else []


def refuse_external_data(path: Path) -> None:
    """Refuse an ONNX file whose tensors lie in other files.

    Raises:
        ValueError: They do, or the file is empty.
    """
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if EXTERNAL_DATA.search(content):
            raise ValueError("keeps tensors in external files; save it as one self-contained file")
