"""The contract of every runtime in the folder, and what each of them refuses."""

from __future__ import annotations

import ast
import math
import pickle
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import runner
from benchmarks.job import PROGRAMS
from benchmarks.protocol import Subject, evaluate, find_runtime
from compress import plugins
from compress.errors import CompressError, Unreachable
from tests.benchmarks.tiny import Tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_runners")]

NEEDS = {"executorch": "executorch", "litert": "litert_torch"}
"""What writes a file for a runtime that is an extra."""
RUNTIMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in NEEDS and find_spec(NEEDS[name]) is None,
            reason=f"{NEEDS.get(name)} is not installed: pip install 'edge-compress[{name}]'",
        ),
    )
    for name in plugins.list_names("runtimes")
]
ADDED_MICROSECONDS = 15
"""Copies of a few hundred bytes, a lookup, torch's inference mode: 0.4 to 5 µs where this was written. OpenVINO's dispatcher
in Python, which was once timed with every call, took 31 to 63 µs there."""
BARE_CALLS: dict[str, Callable[[Any, np.ndarray], Callable[[], object]]] = {
    "onnxruntime": lambda runtime, images: partial(runtime.session.run, None, {runtime.input: images}),
    "openvino": lambda runtime, _: partial(runtime.request.infer, share_outputs=True),
    "torch": lambda runtime, images: partial(
        runtime.forward.__self__.requires_grad_(requires_grad=False).forward, runtime.torch.from_numpy(images)
    ),
    "executorch": lambda runtime, images: partial(runtime.method, [runtime.from_numpy(images)]),
    "litert": lambda runtime, _: runtime.interpreter.invoke,
}
"""By runtime: the call that an application makes, images already where they belong, in the opened file that is timed."""
TRAVELLERS = [
    *(Path(runner.__file__).with_name(program) for program in PROGRAMS),
    *(Path(runner.__file__).parent / "runtimes").glob("[!_]*.py"),
]


@pytest.mark.parametrize("path", TRAVELLERS, ids=lambda path: path.stem)
def test_what_travels_to_a_device_needs_nothing_of_ours(path: Path) -> None:
    """The runner and the runtimes are Python 3.9 and import, at the top, only the standard library and numpy."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).partition(".")[0] for name in imported} <= sys.stdlib_module_names | {"numpy"}
    everywhere = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in everywhere if str(name).startswith(("compress", "benchmarks", "exporters"))}


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_gives_the_known_logits(name: str, tiny: Tiny) -> None:
    """Through the runner's process, with batches that do not divide the images, each image gets its own logits."""
    found = evaluate(tiny.subjects[name], tiny.images, batch_size=4)
    assert found.logits.dtype == np.float32
    # float32 sums of 64 values of size 1 are off by some 1e-7 each
    np.testing.assert_allclose(found.logits, tiny.logits(), atol=2e-6)


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_runtime_honours_threads_and_says_what_runs(name: str, threads: int, tiny: Tiny) -> None:
    """The effective number of threads is the one asked for; provider, precision and version are told."""
    effective = evaluate(tiny.subjects[name], tiny.images, threads=threads).effective
    assert effective["threads"] == str(threads)
    assert effective["provider"]
    assert effective["precision"]
    assert effective["version"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_results_belong_to_the_caller(name: str, tiny: Tiny) -> None:
    """A later call does not change an earlier answer."""
    runtime = plugins.load("runtimes", name)(str(tiny.subjects[name].path), threads=1, batch_size=1)
    first = runtime(tiny.images[:1])
    kept = first.copy()
    runtime(tiny.images[1:2])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_timed_call_is_the_runtimes_own_call(name: str, tiny: Tiny) -> None:
    """What is timed adds almost nothing to an application's own call, in CPU time, which other work hardly moves."""
    subject = tiny.subjects[name]
    runtime = plugins.load("runtimes", name)(str(subject.path), threads=1, batch_size=1)
    images = tiny.images[:1]
    calls = {"ours": lambda: runtime(images), "bare": BARE_CALLS[name](runtime, images)}
    fastest = dict.fromkeys(calls, math.inf)
    for _ in range(2000):
        for which, call in calls.items():
            begun = time.thread_time_ns()
            call()
            fastest[which] = min(fastest[which], (time.thread_time_ns() - begun) / 1000)
    assert fastest["ours"] - fastest["bare"] <= ADDED_MICROSECONDS


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_ending_of_a_file_names_its_runtime(name: str, tiny: Tiny) -> None:
    """Each runtime owns its endings, and its parts begin with the file itself."""
    runtime = plugins.load("runtimes", name)
    assert [find_runtime(Path(f"student{ending}")) for ending in runtime.suffixes] == [name] * len(runtime.suffixes)
    assert runtime.parts(str(tiny.subjects[name].path))[0] == str(tiny.subjects[name].path)


def test_an_unknown_ending_is_explained() -> None:
    """A file that nothing opens is refused with the endings that exist."""
    with pytest.raises(CompressError, match=r"model\.mnn: no runtime opens files that end in '\.mnn'.*\.onnx \(onnxruntime\)"):
        find_runtime(Path("model.mnn"))


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_file_is_named(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """A file that is not there is reported before anything starts."""
    path = tmp_path / f"gone{tiny.subjects[name].path.suffix}"
    with pytest.raises(Unreachable, match=rf"lost: {path} is not there"):
        evaluate(Subject("lost", path, name), tiny.images)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_corrupt_file_is_an_error_of_that_file(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """Garbage under the right name gives one line that starts with the subject."""
    path = tmp_path / f"garbage{tiny.subjects[name].path.suffix}"
    for part in plugins.load("runtimes", name).parts(str(path)):
        Path(part).write_bytes(b"<garbage")
    with pytest.raises(CompressError, match=r"\Agarbage: [^\n]+\Z"):
        evaluate(Subject("garbage", path, name), tiny.images)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_static_batch_is_not_fed_another_one(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """A file that was exported for one image runs with batch 1 and refuses batch 4 by name."""
    write = {"onnxruntime": tiny.write_onnx, "openvino": tiny.write_openvino}[name]
    subject = Subject("one", write(tmp_path / f"one{tiny.subjects[name].path.suffix}", batch=1), name)
    np.testing.assert_allclose(evaluate(subject, tiny.images, batch_size=1).logits, tiny.logits(), atol=2e-6)
    with pytest.raises(CompressError, match="one: is made for batches of 1, not 4; export it with a dynamic batch"):
        evaluate(subject, tiny.images, batch_size=4)


def test_onnx_with_external_data_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Weights in another file are refused, even where that file exists."""
    model = onnx.load(tiny.write_onnx(tmp_path / "whole.onnx"))
    path = tmp_path / "split.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ValueError, match="keeps tensors in external files"):
        plugins.load("runtimes", "onnxruntime")(str(path), threads=1, batch_size=1)
    with pytest.raises(CompressError, match="split: keeps tensors in external files"):
        evaluate(Subject("split", path, "onnxruntime"), tiny.images)


def test_external_data_is_found_whichever_way_its_entry_is_written(tmp_path: Path) -> None:
    """A reader of protobuf takes the fields of an entry in any order, so a stranger may write the place before its key."""
    place, key = b"\x12\x0b/etc/passwd", b"\x0a\x08location"
    for number, entry in enumerate((key + place, place + key)):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(b"\x6a" + bytes([len(entry)]) + entry)
        with pytest.raises(ValueError, match="keeps tensors in external files"):
            plugins.load("runtimes", "onnxruntime")(str(path), threads=1, batch_size=1)


def test_openvino_computes_float32_files_in_float32(tiny: Tiny) -> None:
    """The silent bfloat16 of recent CPUs and the thread pinning are off, as the compiled model itself reports."""
    effective = evaluate(tiny.subjects["openvino"], tiny.images).effective
    assert effective["precision"] == "f32"
    assert effective["pinning"] == "False"
    assert effective["streams"] == "1"


class Intruder:
    """What a stranger may have pickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.target,))


def test_a_pt2_with_a_pickle_in_it_runs_no_code(tiny: Tiny, tmp_path: Path) -> None:
    """Left alone, torch falls back to the unrestricted pickle for example inputs; here the file is refused."""
    import torch

    target, path = tmp_path / "intruded", tmp_path / "evil.pt2"
    torch.save(Intruder(target), tmp_path / "payload")
    with zipfile.ZipFile(tiny.subjects["torch"].path) as good, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as evil:
        for item in good.infolist():
            bad = "sample_inputs" in item.filename
            evil.writestr(item.filename, (tmp_path / "payload").read_bytes() if bad else good.read(item))
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        plugins.load("runtimes", "torch")(str(path), threads=1, batch_size=1)
    assert not target.exists()
