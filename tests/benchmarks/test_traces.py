"""What a runtime leaves behind and whom it asks for: no file in the user's folders, and no name or address looked up.

Every runtime works in a process of its own whose home is an empty folder, and stays alive as long as telemetry that is known
waits before it sends. Names and addresses are seen by a small library that is loaded before the C library (`network_log.c`,
which says what escapes it); it needs Linux and a C compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from compress import plugins
from tests.benchmarks.tiny import Tiny

ALIVE_SECONDS = 15
"""onnxruntime 1.31.1 with its telemetry on looks its vendor's host up 8 to 12 seconds after the first session."""

RUN = """
import importlib.util, sys, time
import numpy as np

code, kind, file, images, seconds = sys.argv[1:]
spec = importlib.util.spec_from_file_location("runtime", code)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
runtime = getattr(module, kind)(file, threads=1, batch_size=1)
print(runtime(np.load(images)).shape)
time.sleep(float(seconds))
"""
QUANTIZE = """
import sys, time
import numpy as np
from compress.system import quiet

file, images, seconds = sys.argv[1:]
openvino, nncf = quiet.import_openvino(), quiet.import_nncf()
with quiet.silence_nncf():
    model = nncf.quantize(openvino.Core().read_model(file), nncf.Dataset([np.load(images)]))
print(sum(op.get_type_name() == "FakeQuantize" for op in model.get_ops()))
time.sleep(float(seconds))
"""
STUDY = """
import sys, time
import benchmarks.studies
import onnxruntime

file, seconds = sys.argv[1:]
print(onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_inputs()[0].name)
time.sleep(float(seconds))
"""
"""What studies do that take a runtime as others do, here and in the processes that they start."""


class Traces(NamedTuple):
    """What one process left."""

    files: list[str]
    """Below its home, caches and temporary folder."""
    calls: str
    """Names and addresses that it looked up or called, one a line."""
    output: str
    status: int


Start = Callable[..., "Callable[[], Traces]"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Return what starts a program in an empty home and returns what ends it and collects its traces."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("what a process looks up is seen on Linux with a C compiler only: install gcc")
    library = tmp_path_factory.mktemp("network_log") / "network_log.so"
    source = Path(__file__).with_name("network_log.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def begin(program: str, *arguments: object) -> Callable[[], Traces]:
        home, log = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("log") / "calls"
        log.touch()
        folders = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
        inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        environment = inherited | {"LD_PRELOAD": str(library), "NETWORK_LOG": str(log), "PYTHONDONTWRITEBYTECODE": "1"}
        for name in folders:
            (home / name).mkdir()
            environment[name] = str(home / name)
        command = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(
            command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

        def collect() -> Traces:
            output, _ = process.communicate(timeout=300)
            files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
            return Traces(files, log.read_text(), output, process.returncode)

        return collect

    return begin


@pytest.fixture(scope="module")
def traces(start: Start, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Traces]:
    """What every runtime that is installed, NNCF and our studies left; they wait at the same time."""
    images = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(images, tiny.images[:1])
    running = {"nncf": start(QUANTIZE, tiny.subjects["openvino"].path, images, ALIVE_SECONDS)}
    running["studies"] = start(STUDY, tiny.subjects["onnxruntime"].path, ALIVE_SECONDS)
    for name, subject in tiny.subjects.items():
        plugin = plugins.describe("runtimes", name)
        running[name] = start(RUN, plugin.path, plugin.attribute, subject.path, images, ALIVE_SECONDS)
    return {name: collect() for name, collect in running.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nncf", "studies", *plugins.list_names("runtimes")])
def test_a_runtime_leaves_no_file_and_asks_for_nobody(name: str, traces: dict[str, Traces]) -> None:
    """Whoever runs a file leaves nothing on his disk that he did not ask for, and no vendor hears of it."""
    if name not in traces:
        pytest.skip(f"{name} is not installed, or nothing that writes its files: pip install 'edge-compress[{name}]'")
    found = traces[name]
    assert found.status == 0, found.output
    assert found.files == []
    assert found.calls == ""


def test_the_log_sees_names_addresses_and_files(start: Start) -> None:
    """The witness of this file is not blind: it tells a name, an address and a file of a process that uses all three."""
    found = start(
        "import pathlib, socket\n"
        "pathlib.Path.home().joinpath('.cache').write_text('id')\n"
        "caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "caller.connect(('127.0.0.1', 9))\n"
        "socket.getaddrinfo('localhost', 80)\n"
    )()
    assert found == Traces(["HOME/.cache"], "connect 127.0.0.1\ngetaddrinfo localhost\n", "", 0)
