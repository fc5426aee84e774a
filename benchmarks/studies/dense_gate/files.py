"""Files of a segmenter in every format and precision, run in this process and judged by the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import exporters
from benchmarks.studies.dense_gate.damage import OUTPUT_DAMAGES, edit_resizes, list_graph_damages, list_input_damages
from benchmarks.studies.dense_gate.networks import SIZE, Scenes
from benchmarks.studies.dense_gate.records import Damaged, GoodFile, Judged
from compress import plugins
from compress.models import Network
from compress.recipe import GateSection
from compress.records import Gate, Precision
from compress.tasks import load_task
from exporters import Quantization, Quantizer, gate
from exporters.verification.judge import try_other_inputs
from exporters.verification.rule import Outputs

Maps = NDArray[np.float32]
Change = Callable[[Maps], Maps]
FORMATS, PRECISIONS = ("onnx", "openvino"), ("fp32", "fp16")
CALIBRATION, PROBED, BATCH = 200, 32, 50


class File(NamedTuple):
    """One file as an exporter wrote it."""

    format: str
    precision: Precision
    rung: str
    path: Path
    runtime: str

    def open(self) -> Change:
        """Return what runs normalised images [N, C, H, W] through it, in this process."""
        return open_file(self.path, self.runtime)


def open_file(path: Path, runtime: str) -> Change:
    """Return what runs normalised images [N, C, H, W] through a file, in this process."""
    loaded = plugins.load("runtimes", runtime)
    loaded.prepare()
    session = loaded(str(path), threads=1, batch_size=None)

    def run(images: Maps) -> Maps:
        parts = [session(np.ascontiguousarray(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
        return np.concatenate(parts)

    return run


def write_files(name: str, network: Network, calibration: Maps, folder: Path, *, rungs: int = 1) -> Iterator[File]:
    """Write a network in every format and precision; what is there stays.

    Args:
        name: Of the network.
        network: Images to logits.
        calibration: Normalised images of the training split, [N, C, H, W].
        folder: Where they go.
        rungs: How many estimators of ranges int8 files are made by, the default first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exporters.reuse_graphs():
        for kind in FORMATS:
            for precision in PRECISIONS:
                exporter = plugins.load("exporters", kind)(precision=precision)
                path = exporter.name_file(folder, name)
                if not path.is_file():
                    exporter.export(network, torch.zeros(1, 3, SIZE, SIZE), path)
                yield File(kind, exporter.precision, "", path, exporter.runtime)
            yield from _write_int8(kind, name, network, calibration, folder, rungs=rungs)


def _write_int8(
    kind: str, name: str, network: Network, calibration: Maps, folder: Path, *, rungs: int
) -> Iterator[File]:  # fmt: skip
    exporter: Quantizer = plugins.load("exporters", kind)(precision="int8")
    paths = {rung: exporter.name_file(folder, f"{name}-{rung}") for rung in exporter.statistics[:rungs]}
    missing = [rung for rung, path in paths.items() if not path.is_file()]
    if missing:
        quantizable = exporter.prepare_int8(network, torch.zeros(1, 3, SIZE, SIZE), calibration)
        for rung in missing:
            quantizable.write(paths[rung], Quantization(statistics=rung))
    for rung, path in paths.items():
        yield File(kind, exporter.precision, rung, path, exporter.runtime)


class Judge:
    """Judges answers for the images of the study against those of a network, as `compress run` does.

    Args:
        network: The network.
        scenes: The images.
    """

    def __init__(self, network: Network, scenes: Scenes) -> None:
        self.images, self.scenes, self.task = scenes.judged, scenes, load_task("segmentation")
        with torch.no_grad():
            parts = [network.outputs(part).logits for part in torch.from_numpy(self.images).split(BATCH)]
        self.reference: Maps = torch.cat(parts).numpy()
        self.size = float(np.sqrt(np.square(self.reference).mean()))

    def measure(self) -> float:
        """Return the network's own mIoU in percent."""
        labels = self.scenes.data.test.labels
        return self.task.measure(self.task.tally(self.reference, labels), self.reference.shape[1]).percent

    def judge(self, run: Change, precision: Precision) -> Judged:
        """Return the verdict on what runs images [N, C, H, W]."""
        logits = np.ascontiguousarray(run(self.images), np.float32)
        verdict: Gate = gate(
            self.reference, logits, self.scenes.data.test.labels, settings=GateSection(), precision=precision, task=self.task
        )
        if logits.shape == self.reference.shape:
            few = self.images[:PROBED]
            verdict = try_other_inputs(
                verdict, lambda altered, _calls: Outputs(run(altered), {}), few, reference=self.reference,
                preprocess=self.scenes.preprocess, precision=precision,
            )  # fmt: skip
        largest = None if verdict.max_abs_diff is None else verdict.max_abs_diff / self.size
        return Judged(
            status=verdict.status, reason=verdict.reason, agreement_percent=verdict.agreement_percent, largest=largest,
            relative_rms=verdict.relative_rms, drop_points=verdict.drop_points, drop_ci95=verdict.drop_ci95,
        )  # fmt: skip


def judge_good(file: File, judge: Judge) -> GoodFile:
    """Return the verdict on a file as it was written."""
    found = judge.judge(file.open(), file.precision)
    return GoodFile(format=file.format, precision=file.precision, rung=file.rung, judged=found)


def judge_damaged(file: File, judge: Judge) -> Iterator[Damaged]:
    """Yield the verdict on a file with each damage."""
    run = file.open()

    def make_fed(change: Change) -> Change:
        return lambda images: run(np.ascontiguousarray(change(images), np.float32))

    def make_altered(change: Change) -> Change:
        return lambda images: np.ascontiguousarray(change(run(images)), np.float32)

    runs: dict[str, Change] = {name: make_fed(change) for name, change in list_input_damages(judge.scenes.preprocess).items()}
    runs |= {name: make_altered(change) for name, change in OUTPUT_DAMAGES.items()}
    runs |= dict(_damage_graph(file))
    for name, damaged in runs.items():
        found = judge.judge(damaged, file.precision)
        yield Damaged(damage=name, format=file.format, precision=file.precision, judged=found)


def _damage_graph(file: File) -> Iterator[tuple[str, Any]]:
    if file.format != "onnx":
        return
    for number, (name, edit) in enumerate(list_graph_damages().items()):
        target = file.path.with_name(f"{file.path.stem}-damaged{number}.onnx")
        if edit_resizes(file.path, target, edit):
            yield name, open_file(target, file.runtime)
