"""Damaged artefacts: whatever is read from a damaged file is what was written, or the file is refused in words."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks import report as reports
from benchmarks.studies.torture.damage import DAMAGES
from benchmarks.studies.torture.networks import build_tiny
from compress import records
from compress.deployed.files import read_bundle
from compress.errors import CompressError
from compress.models import Network, wrap_module
from compress.preprocess import decode
from compress.records import Preprocess, Report, StageResult
from compress.run.cache import find_damage
from compress.run.export import Outcome
from compress.run.measure import RunTiming
from compress.system.files import hash_file
from compress.training import checkpoint


class Artefact(NamedTuple):
    """A file that is damaged and read."""

    path: Path
    read: Callable[[Path], object]
    """Returns what is read from it, as text or numbers that can be compared."""
    is_sealed: bool
    """Whether a checksum guards it, so that what is read can only be what was written."""


def make_artefacts(run: Path, folder: Path) -> Mapping[str, Artefact]:
    """Return artefacts of all kinds: those of a finished run, copied, and some that users bring.

    Args:
        run: The folder in which a tiny run was made.
        folder: Where the copies go.
    """
    cache = run / "runs" / ".cache"
    shutil.copytree(run / "runs" / "tiny" / "bundle", folder / "bundle")
    made = {
        "metrics": _copy_record(next(cache.glob("*/metrics.json")), folder, StageResult),
        "outcome": _copy_record(next(cache.glob("*/outcome.json")), folder, Outcome),
        "timing": _copy_record(next(cache.glob("*/timing.json")), folder, RunTiming),
        "report": _copy_record(run / "runs" / "tiny" / "report.json", folder, Report),
        "a stage's weights": _copy_stage(next(cache.glob("*/metrics.json")).parent, folder),
        "training state": _make_state(folder),
        "weights with a checksum": _copy_weights(run, folder, sealed=True),
        "weights of a user": _copy_weights(run, folder, sealed=False),
        "a torch checkpoint": _make_checkpoint(folder, legacy=False),
        "an old torch checkpoint": _make_checkpoint(folder, legacy=True),
        "an edited report": _make_edited_report(run, folder),
        **{
            f"a picture ({suffix})": _make_picture(folder, suffix)
            for suffix in ("png", "jpg", "webp", "gif", "bmp", "tiff", "ppm")
        },
    }
    for name in ("manifest.json", "SHA256SUMS", "samples.npz", "student-fp32.onnx", "samples/expected.json", "predict.py"):
        made[f"bundle: {name}"] = Artefact(folder / "bundle" / name, lambda path: _read_bundle(folder / "bundle", path), True)
    return made


def try_artefact(artefact: Artefact, random: Random) -> str:
    """Damage an artefact, read it, and put it back; return what came of it, or what is wrong, which begins with `fault`."""
    right = artefact.path.read_bytes()
    before = artefact.read(artefact.path)
    damaged = random.choice(list(DAMAGES.values()))(right, random)
    artefact.path.write_bytes(damaged)
    try:
        after = artefact.read(artefact.path)
    except CompressError as error:
        return "refused" if str(error).strip() else "fault: a refusal without words"
    except Exception as error:  # noqa: BLE001 (what this study looks for)
        return f"fault: {type(error).__name__}: {error}"
    finally:
        artefact.path.write_bytes(right)
    if after == before:
        return "read as it was written"
    return "fault: used silently" if artefact.is_sealed else "read otherwise, and nothing could tell"


def _copy_record(source: Path, folder: Path, kind: type[Any]) -> Artefact:
    path = folder / f"{kind.__name__}.json"
    shutil.copy(source, path)

    def read(path: Path) -> str:
        text: str = records.read(path, kind).model_dump_json()
        return text

    return Artefact(path, read, True)


def _copy_stage(source: Path, folder: Path) -> Artefact:
    shutil.copytree(source, folder / "stage")

    def read(path: Path) -> str:
        if damage := find_damage(path.parent):
            raise CompressError(damage)
        return "whole"

    return Artefact(folder / "stage" / "weights.safetensors", read, True)


def _make_state(folder: Path) -> Artefact:
    path = folder / "state.pt"
    checkpoint.save_state(path, {"epoch": 3, "moving": {"weight": torch.arange(3000.0)}, "history": ["x"]})

    def read(path: Path) -> tuple[int, list[float]]:
        state = checkpoint.load_state(path)
        if state is None:
            raise CompressError("gone")
        return state["epoch"], state["moving"]["weight"].tolist()

    return Artefact(path, read, True)


def _build_network() -> Network:
    torch.manual_seed(0)
    return wrap_module(build_tiny(10, 1), torch.zeros(1, 1, 8, 8), name="tiny")


def _sum_up(network: Network) -> list[float]:
    return [float(tensor.double().sum()) for tensor in network.module.state_dict().values()]


def _copy_weights(run: Path, folder: Path, *, sealed: bool) -> Artefact:
    path = folder / f"weights-{sealed}.safetensors"
    network = _build_network()
    shutil.copy(run / "runs" / "tiny" / "student" / "weights.safetensors", path)
    sha256 = hash_file(path) if sealed else None

    def read(path: Path) -> list[float]:
        checkpoint.load_weights(network, path, sha256=sha256)
        return _sum_up(network)

    return Artefact(path, read, sealed)


def _make_checkpoint(folder: Path, *, legacy: bool) -> Artefact:
    path = folder / ("old.pth" if legacy else "new.pt")
    network = _build_network()
    torch.save({"state_dict": network.module.state_dict()}, path, _use_new_zipfile_serialization=not legacy)

    def read(path: Path) -> list[float]:
        checkpoint.load_weights(network, path)
        return _sum_up(network)

    return Artefact(path, read, False)


def _make_edited_report(run: Path, folder: Path) -> Artefact:
    """Return a report that its user edited, so that no checksum guards it; it is drawn in every way."""
    document = json.loads((run / "runs" / "tiny" / "report.json").read_text(encoding="utf-8"))
    document.pop("checksum")
    path = folder / "edited.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    (folder / "drawn").mkdir()

    def read(path: Path) -> str:
        report = records.read(path, Report)
        reports.write(report, folder / "drawn")
        reports.make_table(report)
        reports.make_score_tables(report)
        reports.write_comparison([report, report], folder / "drawn" / "comparison.html")
        return report.model_dump_json()

    return Artefact(path, read, False)


def _make_picture(folder: Path, suffix: str) -> Artefact:
    path = folder / f"picture.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    path.write_bytes(buffer.getvalue())
    preprocess = Preprocess(
        height=8, width=8, channels="rgb", interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    return Artefact(path, lambda path: decode(path, preprocess, str(path)).tobytes(), False)


def _read_bundle(folder: Path, path: Path) -> str:
    from exporters.bundle.bundle import find_unfamiliar_programs, read_samples

    _, manifest = read_bundle(folder)
    samples = read_samples(folder, manifest)
    if unfamiliar := find_unfamiliar_programs(folder, manifest):
        raise CompressError(f"{unfamiliar[0]} is not the program that compress wrote")
    return f"{manifest.model_dump_json()} {samples.logits.sum()} {hash_file(path) if path.suffix == '.onnx' else ''}"
