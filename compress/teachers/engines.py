"""Run frozen teachers: several engines give the same outputs, some much faster than eager float32.

`try_engines` runs each on a few batches of real images, in interleaved rounds, and puts first the fastest whose outputs are
close enough to those of eager float32. The trial is kept, so that a run that continues, and every later one on this machine,
takes the same engine; another machine, or a trial under other load, may choose another. No engine changes a network or its
mode: each but eager has a copy, and all run it in evaluation mode.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from compress import records
from compress.errors import CompressError, Interrupted, Unwritable
from compress.events import Events
from compress.freezing import evaluating
from compress.methods import Signal
from compress.models import Network
from compress.records import EngineTrial, EngineTrials
from compress.records.training import NOT_FINITE
from compress.system import quiet
from compress.system.files import writable

ROUNDS = 3
"""Interleaved timings of each engine in a trial; the median counts."""

BY_NAME_ALONE = ("compile", "openvino_int8")
"""Engines whose start takes so long that no trial includes them."""


Engine = Callable[[Tensor], tuple[Tensor, ...]]
"""Images [B, C, H, W] to one tensor [B, ...] for each signal that it was made for, in their order."""


class JointTeachers(nn.Module):
    """All teachers that are needed, as one frozen module from images to the outputs of some signals.

    Args:
        teachers: All teachers.
        signals: What is computed; each teacher that occurs runs once.
    """

    def __init__(self, teachers: Sequence[Network], signals: Sequence[Signal]) -> None:
        super().__init__()
        self.signals = tuple(signals)
        self.places = sorted({signal.teacher for signal in signals})
        self.teachers = nn.ModuleList(teachers[place] for place in self.places)
        self.modules_of = nn.ModuleList(nn.Identity() if signal.module is None else signal.module for signal in signals)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor [B, ...] for each signal, given images [B, C, H, W]."""
        networks = [network for network in self.teachers if isinstance(network, Network)]
        outputs = {place: network.outputs(images) for place, network in zip(self.places, networks, strict=True)}
        found = []
        for signal, module in zip(self.signals, self.modules_of, strict=True):
            given = outputs[signal.teacher]
            found.append(module(given.logits if signal.tap is None else given.features[signal.tap]))
        return tuple(found)


def build_eager(teachers: JointTeachers, autocast: torch.dtype | None = None) -> Engine:
    """Return torch as it is, in the precision of the training; not in inference mode, whose tensors no loss may keep."""

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with evaluating(teachers), torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            outputs: tuple[Tensor, ...] = teachers(images)
        return outputs

    return run


def build_channels_last(teachers: JointTeachers, autocast: torch.dtype | None = None) -> Engine:
    """Return a copy whose convolutions read images with the channels last in memory."""
    run = build_eager(_copy(teachers), autocast)
    return lambda images: run(images.contiguous(memory_format=torch.channels_last))


def build_compiled(teachers: JointTeachers) -> Engine:
    """Return a copy compiled by torch's inductor; the first call takes up to a minute."""
    whole = torch.compile(_copy(teachers))

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            outputs: tuple[Tensor, ...] = whole(images.contiguous(memory_format=torch.channels_last))
        return outputs

    return run


def build_openvino(teachers: JointTeachers, images: Tensor, precision: str, *, quantized: bool = False) -> Engine:
    """Return the deployment runtime, compiled for batches of this size; smaller ones are filled up.

    Args:
        teachers: All teachers and their signals.
        images: A batch of real images, [B, C, H, W].
        precision: In which the runtime computes, as it calls it.
        quantized: Let NNCF turn weights and activations into int8 first, with ranges as they are on these images.

    Raises:
        CompressError: It cannot take these networks, or computes in another precision than the requested one.
    """
    runtime = quiet.import_openvino()
    try:
        with quiet.silence_tracer(), quiet.keep_root_logger(), torch.no_grad():
            model = runtime.convert_model(torch.export.export(copy.deepcopy(teachers).eval(), (images,)))
    except _list_refusals(runtime) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompressError(
            f"teacher_outputs.engine: OpenVINO cannot take the teacher ({reason}); choose another engine"
        ) from error
    if quantized:
        model = _quantize(model, images)
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled_model = runtime.Core().compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise CompressError(
            f"teacher_outputs.engine: OpenVINO cannot run the teacher ({error}); choose another engine"
        ) from error
    runs = compiled_model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if runs != precision:
        raise CompressError(f"teacher_outputs.engine: OpenVINO computes in {runs}, not in {precision}; choose another engine")
    request, size = compiled_model.create_infer_request(), len(images)

    def run(given: Tensor) -> tuple[Tensor, ...]:
        whole = given if len(given) == size else torch.cat([given, given[:1].expand(size - len(given), *given.shape[1:])])
        results = request.infer({0: whole.contiguous().numpy()}, share_inputs=True)
        return tuple(torch.from_numpy(results[place][: len(given)]) for place in range(len(teachers.signals)))

    return run


def _quantize(model: Any, images: Tensor) -> Any:
    """Return a graph in int8, by NNCF's defaults."""
    nncf = quiet.import_nncf()
    try:
        with quiet.silence_nncf():
            return nncf.quantize(model, nncf.Dataset([images.contiguous().numpy()]), subset_size=1)
    except (RuntimeError, nncf.InternalError, nncf.UnsupportedModelError, nncf.ValidationError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompressError(
            f"teacher_outputs.engine: NNCF cannot quantize the teacher ({reason}); choose another engine"
        ) from error


def _list_refusals(runtime: Any) -> tuple[type[Exception], ...]:
    """Return what torch's tracer and OpenVINO raise for networks that they cannot take."""
    own = runtime.frontend.OpConversionFailure, runtime.frontend.NotImplementedFailure, runtime.frontend.GeneralFailure
    return (RuntimeError, TypeError, ValueError, *own)


def list_engines(teachers: JointTeachers, images: Tensor, autocast: torch.dtype | None) -> Mapping[str, Callable[[], Engine]]:
    """Return the engines that this device has for images [B, C, H, W], by their name in recipes; each is built when called."""
    known: dict[str, Callable[[], Engine]] = {
        "eager": lambda: build_eager(teachers, autocast),
        "channels_last": lambda: build_channels_last(teachers, autocast),
        "compile": lambda: build_compiled(teachers),
    }
    if images.device.type == "cuda":
        known["bf16"] = lambda: build_channels_last(teachers, torch.bfloat16)
        known["fp16"] = lambda: build_channels_last(teachers, torch.float16)
        return known
    capabilities = quiet.import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    known["openvino"] = lambda: build_openvino(teachers, images, "f32")
    known["openvino_int8"] = lambda: build_openvino(teachers, images, "f32", quantized=True)
    if "BF16" in capabilities:
        known["bf16"] = lambda: build_channels_last(teachers, torch.bfloat16)
        known["openvino_bf16"] = lambda: build_openvino(teachers, images, "bf16")
    return known


def build_engine(name: str, teachers: JointTeachers, images: Tensor, autocast: torch.dtype | None) -> Engine:
    """Return the engine of that name, made for batches like `images` [B, C, H, W].

    Raises:
        CompressError: This device does not have it.
    """
    if name == "eager":
        return build_eager(teachers, autocast)  # without loading a runtime
    known = list_engines(teachers, images, autocast)
    if name not in known:
        raise CompressError(
            f"teacher_outputs.engine: {name!r} does not run on this machine; it has: {', '.join(known)}, or use auto"
        )
    return known[name]()


def try_engines(
    teachers: JointTeachers,
    batches: Sequence[Tensor],
    autocast: torch.dtype | None,
    *,
    tolerance: float,
    events: Events | None = None,
) -> tuple[EngineTrial, ...]:
    """Try all engines that this device has but those of `BY_NAME_ALONE`.

    Args:
        teachers: All teachers and their signals.
        batches: Real images, [B, C, H, W] each, of one size.
        autocast: The precision of the training.
        tolerance: Largest accepted difference from eager float32: the root mean square of the difference of any signal
            over that of the signal.
        events: Receives why an engine is left out.

    Returns:
        What was found, the fastest that is close enough first.

    Raises:
        CompressError: The outputs of eager float32 are not finite.
    """
    events = events or Events()
    reference = [build_eager(teachers)(images) for images in batches]
    if not all(bool(output.isfinite().all()) for outputs in reference for output in outputs):
        raise CompressError("teacher: gives numbers that are not finite on the training images; check its weights")
    engines = _start_engines(list_engines(teachers, batches[0], autocast), batches[0], events)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            times[name].append(time_batch_seconds(engine, batches[0]))
    found = []
    for name, engine in engines.items():
        trial = compare_outputs(
            teachers, name, [engine(images) for images in batches], reference, 1000 * statistics.median(times[name])
        )
        if trial.relative_difference < NOT_FINITE:
            found.append(trial)
        else:
            events.say(f"teacher: engine {name} gives numbers that are not finite and is left out")
    return tuple(sorted(found, key=lambda trial: (_is_too_far(trial, tolerance), trial.ms_per_batch)))


def read_trials(path: Path, events: Events) -> tuple[EngineTrial, ...]:
    """Return the trial that a file keeps, if there is one; a damaged file is reported and removed."""
    if not path.is_file():
        return ()
    try:
        return records.read(path, EngineTrials).trials
    except CompressError as error:
        events.warn(f"{error}; the engines are tried anew")
        path.unlink()
        return ()


def keep_trials(
    make: Callable[[], tuple[EngineTrial, ...]], *, own: Path | None, shared: Path | None, events: Events
) -> tuple[EngineTrial, ...]:
    """Return the trial that a file keeps, or make it and keep it, so that what a clock decided once stays decided.

    Args:
        make: Makes the trial.
        own: File for this stage alone; it comes first, so that a stage that continues never decides anew.
        shared: File for every stage with the same networks and batches, now and in later runs.
        events: Receives what is wrong with a file.

    Raises:
        Unreachable: A folder cannot be written.
        CompressError: Nothing could be tried.
    """
    files = [path for path in (own, shared) if path is not None]
    with nullcontext() if shared is None else _lock(shared.parent):
        tried = next((found for path in files if (found := read_trials(path, events))), ()) or make()
        for path in files:
            if not path.is_file():
                records.save(path, EngineTrials(trials=tried))
    return tried


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            yield


def _is_too_far(trial: EngineTrial, tolerance: float) -> bool:
    return trial.relative_difference > tolerance and trial.engine != "eager"  # which is what runs where nothing else does


def _start_engines(known: Mapping[str, Callable[[], Engine]], images: Tensor, events: Events) -> dict[str, Engine]:
    """Return the engines that can take these networks, each called once, since the first call is slow."""
    engines = {}
    for name, make in known.items():
        if name in BY_NAME_ALONE:
            continue
        try:
            engines[name] = make()
        except (Interrupted, Unwritable):
            raise
        except CompressError as error:
            events.say(f"{error}; engine {name} is left out")
            continue
        time_batch_seconds(engines[name], images)
    return engines


def compare_outputs(
    teachers: JointTeachers,
    name: str,
    given: Sequence[tuple[Tensor, ...]],
    reference: Sequence[tuple[Tensor, ...]],
    ms_per_batch: float,
) -> EngineTrial:
    """Return how an engine's outputs differ from those of eager float32, batch by batch and signal by signal.

    Both are one tuple for each batch, with a tensor [B, ...] for each signal. The relative difference is `NOT_FINITE` where
    an output is not finite.
    """
    relative, largest, agreed, seen = 0.0, 0.0, 0, 0
    each = zip(teachers.signals, zip(*given, strict=True), zip(*reference, strict=True), strict=True)
    for signal, outputs, exact in each:
        ours, theirs = torch.cat([part.float() for part in outputs]), torch.cat([part.float() for part in exact])
        difference = ours - theirs
        size = float(difference.square().mean().sqrt() / theirs.square().mean().sqrt().clamp(min=1e-12))
        relative = max(relative, min(size, NOT_FINITE) if math.isfinite(size) else NOT_FINITE)  # max() passes over NaN
        if signal.tap is None:
            largest = max(largest, float(difference.abs().max().nan_to_num(torch.inf)))
            same = ours.argmax(1) == theirs.argmax(1)
            agreed, seen = agreed + int(same.sum()), seen + same.numel()
    return EngineTrial(
        engine=name,
        ms_per_batch=ms_per_batch,
        relative_difference=relative,
        max_logit_difference=min(largest, NOT_FINITE) if seen else None,
        agreement_percent=100 * agreed / seen if seen else None,
    )


def _copy(teachers: JointTeachers) -> JointTeachers:
    ours: JointTeachers = copy.deepcopy(teachers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ours.eval()


def time_batch_seconds(engine: Engine, images: Tensor) -> float:
    """Return how long one batch [B, C, H, W] takes, in seconds."""
    begun = time.perf_counter()
    engine(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
