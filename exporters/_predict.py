"""Classify pictures with a model file of this bundle; needs numpy, Pillow, and onnxruntime or openvino, nothing else.

    python predict.py IMAGE... [--file FILE] [--top K] [--threads N] [--json]
    python predict.py --self-test

`compress` copies this file byte for byte into every bundle as `predict.py`, so it stands alone and keeps to Python 3.9. It
does what `manifest.json` beside it says: pictures are decoded, turned, laid over white, resized and normalised as in training.
The first file whose runtime is installed is used, unless --file names one. Milliseconds are the median of a few calls for one
image, without decoding and resizing. Exit codes: 0 good, 2 something is refused or unreadable, 3 the self-test failed.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import io
import json
import re
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

try:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageOps
except ModuleNotFoundError as missing:
    sys.stderr.write(f"predict.py needs numpy and Pillow, and {missing.name!r} is not there: pip install numpy pillow\n")
    raise SystemExit(2) from missing

MAX_MANIFEST_BYTES, MAX_PIXELS, MAX_BATCH, CALLS = 16 << 20, 89_478_485, 4096, 9
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
BROKEN = (
    OSError, ValueError, SyntaxError, TypeError, EOFError, OverflowError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
RESAMPLING = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}
Run = Callable[[NDArray[Any]], NDArray[Any]]


class Refused(Exception):
    """What is wrong, in words for the user."""


class Contract(NamedTuple):
    """What `manifest.json` says of pictures and answers."""

    height: int
    width: int
    mode: str
    """Of Pillow: `L` or `RGB`."""
    resampling: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


def read_manifest(folder: Path) -> tuple[Contract, list[dict[str, Any]]]:
    """Return what a bundle says of itself, and its model files."""
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise Refused(f"{path}: is larger than {MAX_MANIFEST_BYTES >> 20} MiB; get the bundle again")
        content, sums = path.read_bytes(), (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        if f"{hashlib.sha256(content).hexdigest()}  {path.name}" not in sums:
            raise Refused(f"{path}: has not the checksum that SHA256SUMS says; it was changed or damaged: get it again")
        manifest = json.loads(content.decode("utf-8"))
        pre = manifest["preprocess"]
        mode, resampling = {"gray": "L", "rgb": "RGB"}[pre["channels"]], RESAMPLING[pre["interpolation"]]
        mean, std = tuple(map(float, pre["mean"])), tuple(map(float, pre["std"]))
        classes = tuple(map(str, manifest["classes"]))
        contract = Contract(int(pre["height"]), int(pre["width"]), mode, resampling, mean, std, classes)
        good = len(mean) == len(std) == len(mode)
        if not good or manifest["schema_version"] != 1 or not 0 < contract.height * contract.width <= MAX_PIXELS:
            raise ValueError("sizes or versions that this program does not know")  # noqa: TRY301 (told like the others)
        return contract, [dict(entry) for entry in manifest["files"]]
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror}); keep predict.py in its bundle") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refused(f"{path}: is not a manifest of this version ({error!r}); get the bundle again") from error


def choose(files: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    """Return the entry of the file that is asked for, or else of the first whose runtime is installed."""
    known = [str(entry.get("path")) for entry in files]
    if wanted is not None and wanted not in known:
        raise Refused(f"--file {wanted}: the bundle has no such file; there are: {', '.join(known)}")
    asked = [entry for entry in files if wanted in (None, entry.get("path"))]
    usable = [entry for entry in asked if entry.get("runtime") in LOADERS]
    if not usable:
        raise Refused(f"{', '.join(known)}: predict.py runs files for {' and '.join(LOADERS)} only; use `compress predict`")
    for entry in usable:
        if importlib.util.find_spec(entry["runtime"]) is not None:
            return entry
    needed = sorted({entry["runtime"] for entry in usable})
    raise Refused(f"{' or '.join(needed)} is needed and not installed: pip install {needed[0]}")


def check_parts(folder: Path, entry: dict[str, Any]) -> Path:
    """Return the path of a model file, all parts of which have the checksums of the manifest."""
    parts = dict(entry["parts"])
    if entry["path"] not in parts:
        raise Refused(f"{entry['path']}: has no checksum in the manifest; get the bundle again")
    for name, sha256 in parts.items():
        path = folder / name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name) or path.is_symlink() or not path.is_file():
            raise Refused(f"{path}: is not a plain file of the bundle; get the bundle again")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise Refused(f"{path}: has sha256 {found}, the manifest says {sha256}; it was changed or damaged: get it again")
    return folder / str(entry["path"])


def decode(path: Path, contract: Contract) -> NDArray[np.uint8]:
    """Return a picture file as [H, W, C]."""
    try:
        opened = Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS)
        accept(opened, path)
        image = plain(ImageOps.exif_transpose(opened), contract.mode)
    except BROKEN as error:
        raise Refused(f"{path}: cannot be read as a picture ({error}); replace or remove it") from error
    if image.size != (contract.width, contract.height):
        image = image.resize((contract.width, contract.height), contract.resampling)
    return np.array(image).reshape(contract.height, contract.width, len(contract.mean))


def accept(image: Image.Image, path: Path) -> None:
    """Refuse pictures that are too large, that move, or whose values have no known range."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refused(f"{path}: has {width} x {height} pixels, more than {MAX_PIXELS}; shrink it")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise Refused(f"{path}: has {frames} frames; give a still picture")
    if image.mode in {"I", "F"}:
        raise Refused(f"{path}: has 32-bit values (mode {image.mode}) of unknown range; convert it to 8 bits")


def plain(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in mode `L` or `RGB`: of 16 bits the upper eight, transparency over white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info or palette.endswith("A"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def normalise(pixels: NDArray[np.uint8], contract: Contract) -> NDArray[np.float32]:
    """Return [N, C, H, W] of [N, H, W, C]: (value / 255 - mean) / std, as one product and one sum in float32."""
    mean, std = np.array(contract.mean, np.float64), np.array(contract.std, np.float64)
    scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    values = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
    values *= scale[:, None, None]
    values += shift[:, None, None]
    return values


def load_onnxruntime(path: Path, threads: int, batch_size: int) -> Run:  # noqa: ARG001 (ONNX files take any batch, or say theirs)
    """Load an ONNX file on the CPU."""
    content = path.read_bytes()
    if any(external_data(memoryview(content), "model")):
        raise Refused(f"{path}: keeps weights in other files, which could lie anywhere; get the bundle again")
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def load_openvino(path: Path, threads: int, batch_size: int) -> Run:
    """Load an OpenVINO IR on the CPU, computing in float32 as it was proved; without the import's telemetry."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells a package that is missing
    core = importlib.import_module("openvino").Core()
    model = core.read_model(path)
    shape = model.input(0).partial_shape
    shape[0] = batch_size
    model.reshape(shape)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}  # fmt: skip
    compiled = core.compile_model(model, "CPU", settings)
    return lambda images: np.array(compiled([images])[0])


LOADERS = {"onnxruntime": load_onnxruntime, "openvino": load_openvino}

MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Of the format ONNX: in which fields of a message there are messages that lead to tensors."""


def external_data(content: memoryview, kind: str) -> Iterator[bool]:
    """Yield whether a tensor lies in another file, for every tensor in the bytes of a protobuf message."""
    place = 0
    while place < len(content):
        tag, place = varint(content, place)
        field, wire = tag >> 3, tag & 7
        if wire == 2:
            size, place = varint(content, place)
            inner, place = content[place : place + size], place + size
            if kind == "tensor":
                yield field == 13
            elif field in MESSAGES[kind]:
                yield from external_data(inner, MESSAGES[kind][field])
        elif wire == 0:
            value, place = varint(content, place)
            yield kind == "tensor" and field == 14 and value == 1
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
        else:
            raise Refused("the model file is damaged: it is not an ONNX file; get the bundle again")


def varint(content: memoryview, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while place < len(content) and shift < 70:
        byte = content[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
    raise Refused("the model file is damaged: it ends within a number; get the bundle again")


@contextmanager
def told(entry: dict[str, Any]) -> Iterator[None]:
    """Say in words what a runtime raises; each has classes of its own."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise Refused(
            f"{entry['path']}: {entry['runtime']} does not run it ({reason}); try a newer {entry['runtime']}"
        ) from error


class Model:
    """A model file, ready to answer."""

    def __init__(self, folder: Path, entry: dict[str, Any], contract: Contract, threads: int) -> None:
        path = check_parts(folder, entry)
        self.entry, self.contract, self.batch_size = entry, contract, entry.get("batch_size") or 1
        if not isinstance(self.batch_size, int) or not 0 < self.batch_size <= MAX_BATCH:
            raise Refused(f"{path}: takes {self.batch_size} images in a call, more than {MAX_BATCH}; get the bundle again")
        with told(entry):
            self.run = LOADERS[entry["runtime"]](path, threads, self.batch_size)

    def logits(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """Return the logits [K] of a picture [H, W, C], and the milliseconds for one image."""
        batch = np.repeat(pixels[None], self.batch_size, axis=0)  # a file of a fixed batch is filled with copies
        images = batch if self.entry.get("inside") else normalise(batch, self.contract)
        took = []
        for _ in range(CALLS):
            begun = time.perf_counter()
            with told(self.entry):
                answer = self.run(images)
            took.append(1000 * (time.perf_counter() - begun))
        if answer.shape != (self.batch_size, len(self.contract.classes)) or not np.isfinite(answer).all():
            wrong = f"{self.entry['path']}: gives {list(answer.shape)} numbers, not a finite logit for each class"
            raise Refused(f"{wrong}; get the bundle again")
        return answer[0], median(took[2:]) / self.batch_size


def classify(model: Model, path: Path, top: int) -> dict[str, Any]:
    """Return what a model says of a picture file, or why the file cannot be read."""
    try:
        pixels = decode(path, model.contract)
    except Refused as error:
        return {"image": str(path), "classes": [], "logits": [], "milliseconds": None, "error": str(error)}
    logits, milliseconds = model.logits(pixels)
    shares = np.exp(logits.astype(np.float64) - float(logits.max()))
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    classes = [{"name": model.contract.classes[index], "score": float(shares[index])} for index in best]
    return {"image": str(path), "classes": classes, "logits": logits.tolist(), "milliseconds": milliseconds, "error": ""}


def self_test(model: Model, folder: Path) -> int:
    """Compare the answers to the sample pictures with those of the trained network; return how many are too far off."""
    failed, measured = 0, float(model.entry["gate"].get("max_abs_diff") or 0)
    path = folder / "samples" / "expected.json"
    try:
        samples = [(str(each["file"]), each["logits"]) for each in json.loads(path.read_text(encoding="utf-8"))["pictures"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise Refused(f"{path}: cannot be read ({error!r}); get the bundle again") from error
    for name, logits in samples:
        wanted = np.array(logits, np.float32)
        found, _ = model.logits(decode(path.with_name(Path(name).name), model.contract))
        bound = max(2 * measured, 1e-3 * float(abs(wanted).max()))  # other processors round otherwise
        difference = float(abs(found - wanted).max())
        failed += difference > bound
        verdict = "ok" if difference <= bound else "FAILED"
        sys.stdout.write(f"{verdict}  {name}: logits differ by {difference:.2g}, accepted are {bound:.2g}\n")
    return failed


def show(result: dict[str, Any]) -> str:
    """Return an answer as people read it."""
    lines = [f"{100 * each['score']:7.1f} %  {each['name']}" for each in result["classes"]]
    return "\n".join([f"{result['image']}  {result['milliseconds']:.3f} ms", *lines])


def main() -> int:
    """Carry out the command line and return its exit code."""
    folder = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(prog="predict.py", description="Classify pictures with a model file of this bundle.")
    parser.add_argument("images", nargs="*", metavar="IMAGE", type=Path)
    parser.add_argument("--file", help="model file; default: the first whose runtime is installed")
    parser.add_argument("--top", type=int, default=3, help="classes to show (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document, with all logits")
    parser.add_argument("--self-test", action="store_true", help="compare with the expected answers to the sample pictures")
    given = parser.parse_args()
    if (not given.self_test and not given.images) or min(given.top, given.threads) < 1:
        parser.error("give pictures or --self-test; --top and --threads are at least 1")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused
    try:
        contract, files = read_manifest(folder)
        model = Model(folder, choose(files, given.file), contract, given.threads)
        if given.self_test:
            return 3 if self_test(model, folder) else 0
        results = [classify(model, path, given.top) for path in given.images]
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return 2
    answered = [result for result in results if not result["error"]]
    shown = {"file": model.entry["path"], "runtime": model.entry["runtime"], "images": results}
    sys.stdout.write(json.dumps(shown, indent=1) if given.json else "\n".join(map(show, answered)))
    sys.stdout.write("\n")
    sys.stderr.write("".join(f"{result['error']}\n" for result in results if result["error"]))
    return 0 if len(answered) == len(results) else 2


if __name__ == "__main__":
    raise SystemExit(main())
