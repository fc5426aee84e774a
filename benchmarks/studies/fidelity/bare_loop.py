"""A bare loop over one runtime, as an application has it: `python bare_loop.py RUNTIME FILE IMAGES SECONDS`.

It opens FILE with the package of RUNTIME, calls it on the first image of IMAGES (.npy) for a second, and then times every call
for so many SECONDS. It prints one line of JSON: `median_ms`, `calls`, `version`. Nothing of ours is imported.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP_SECONDS = 1.0
Call = Callable[[], object]


def main(runtime: str, file: str, images: str, seconds: float) -> None:
    """Time a file and print what was found."""
    call, version = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}[runtime](file, np.load(images)[:1])
    time_calls(call, WARM_UP_SECONDS)
    durations = time_calls(call, seconds)
    sys.stdout.write(
        json.dumps({"median_ms": statistics.median(durations) / 1e6, "calls": len(durations), "version": version}) + "\n"
    )


def open_onnxruntime(file: str, image: Any) -> tuple[Call, str]:
    """Return a call of a file on an image [1, C, H, W], with one thread, and the version."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, feed), onnxruntime.__version__


def open_openvino(file: str, image: Any) -> tuple[Call, str]:
    """Return a call of a file on an image [1, C, H, W] that lies in the request's memory, with one thread, and the version."""
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    model.reshape(list(image.shape))
    asked = {
        "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    request = core.compile_model(model, "CPU", asked).create_infer_request()
    request.get_input_tensor(0).data[:] = image
    return lambda: request.infer(share_outputs=True), openvino.get_version()


def time_calls(call: Call, seconds: float) -> list[int]:
    """Return the nanoseconds of each call until so many seconds have passed; at least three."""
    clock, durations = time.perf_counter_ns, list[int]()
    end = clock() + seconds * 1e9
    while clock() < end or len(durations) < 3:
        begun = clock()
        call()
        durations.append(clock() - begun)
    return durations


if __name__ == "__main__":
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells a package that is missing
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
