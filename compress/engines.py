"""How a frozen teacher is run: several engines give the same answers, some much faster than eager float32.

`choose` tries them on a few batches of real images, interleaved, and takes the fastest whose answers are close enough to those
of eager float32. What was tried is kept, so that a run that continues, and every later one on this machine, takes the same.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from compress import _quiet
from compress.errors import CompressError
from compress.methods._step import Signal
from compress.models._network import Network
from compress.records import EngineTrial

ROUNDS = 3
"""Interleaved timings of each engine in a trial; the median counts."""


Engine = Callable[[Tensor], tuple[Tensor, ...]]
"""Images [B, C, H, W] to one tensor [B, ...] for each signal that it was made for, in their order."""


class Answering(nn.Module):
    """All teachers that are asked, as one frozen module from images to the tensors of some signals.

    Args:
        teachers: All teachers.
        signals: What is asked; each teacher that occurs runs once.
    """

    def __init__(self, teachers: Sequence[Network], signals: Sequence[Signal]) -> None:
        super().__init__()
        self.signals = tuple(signals)
        self.asked = sorted({signal.teacher for signal in signals})
        self.teachers = nn.ModuleList(teachers[index] for index in self.asked)
        self.modules_of = nn.ModuleList(signal.module or nn.Identity() for signal in signals)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor for each signal."""
        networks = [network for network in self.teachers if isinstance(network, Network)]
        outputs = {index: network.outputs(images) for index, network in zip(self.asked, networks, strict=True)}
        answers = []
        for signal, module in zip(self.signals, self.modules_of, strict=True):
            given = outputs[signal.teacher]
            answers.append(module(given.logits if signal.tap is None else given.features[signal.tap]))
        return tuple(answers)


def eager(answering: Answering, autocast: torch.dtype | None = None) -> Engine:
    """Return torch as it is, in the precision of the training; not in inference mode, whose tensors no loss may keep."""

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            answers: tuple[Tensor, ...] = answering(images)
        return answers

    return run


def channels_last(answering: Answering, autocast: torch.dtype | None = None) -> Engine:
    """Return a copy whose convolutions read images with the channels last in memory."""
    ours: Answering = copy.deepcopy(answering).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = eager(ours, autocast)
    return lambda images: run(images.contiguous(memory_format=torch.channels_last))


def compiled(answering: Answering) -> Engine:
    """Return a copy compiled by torch's inductor; the first call takes up to a minute."""
    whole = torch.compile(copy.deepcopy(answering).to(memory_format=torch.channels_last))  # type: ignore[call-overload]

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            answers: tuple[Tensor, ...] = whole(images.contiguous(memory_format=torch.channels_last))
        return answers

    return run


def openvino(answering: Answering, images: Tensor, precision: str) -> Engine:
    """Return the deployment runtime, compiled for batches of this size; smaller ones are filled up.

    Raises:
        CompressError: It computes in another precision than it was asked for.
    """
    runtime = _quiet.openvino()
    with _quiet.tracer(), torch.no_grad():
        model = runtime.convert_model(torch.export.export(answering, (images,)))
    asked = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    compiled_model = runtime.Core().compile_model(model, "CPU", asked)
    runs = compiled_model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if runs != precision:
        raise CompressError(f"targets.engine: OpenVINO computes in {runs}, not in {precision}; choose another engine")
    request, size = compiled_model.create_infer_request(), len(images)

    def run(given: Tensor) -> tuple[Tensor, ...]:
        whole = given if len(given) == size else torch.cat([given, given[:1].expand(size - len(given), *given.shape[1:])])
        results = request.infer({0: whole.contiguous().numpy()}, share_inputs=True)
        return tuple(torch.from_numpy(results[place][: len(given)].copy()) for place in range(len(answering.signals)))

    return run


def candidates(answering: Answering, images: Tensor, autocast: torch.dtype | None) -> Mapping[str, Callable[[], Engine]]:
    """Return the engines that this device has, by the name that a recipe gives them, each built when it is called."""
    known: dict[str, Callable[[], Engine]] = {
        "eager": lambda: eager(answering, autocast),
        "channels_last": lambda: channels_last(answering, autocast),
        "compile": lambda: compiled(answering),
    }
    if images.device.type == "cuda":
        known["bf16"] = lambda: channels_last(answering, torch.bfloat16)
        known["fp16"] = lambda: channels_last(answering, torch.float16)
        return known
    capabilities = _quiet.openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    known["openvino"] = lambda: openvino(answering, images, "f32")
    if "BF16" in capabilities:
        known["bf16"] = lambda: channels_last(answering, torch.bfloat16)
        known["openvino_bf16"] = lambda: openvino(answering, images, "bf16")
    return known


def build(name: str, answering: Answering, images: Tensor, autocast: torch.dtype | None) -> Engine:
    """Return the engine of that name.

    Raises:
        CompressError: This device does not have it.
    """
    known = candidates(answering, images, autocast)
    if name not in known:
        raise CompressError(f"targets.engine: {name!r} does not run on this machine; it has: {', '.join(known)}, or use auto")
    return known[name]()


def choose(
    answering: Answering, batches: Sequence[Tensor], autocast: torch.dtype | None, *, tolerance: float
) -> tuple[EngineTrial, ...]:
    """Try all engines that this device has but `compile`, whose start alone costs a minute.

    Args:
        answering: What is asked.
        batches: Real images, [B, C, H, W] each, of one size.
        autocast: The precision of the training.
        tolerance: Largest accepted difference from eager float32: the root mean square of the difference of any signal
            over that of the signal.

    Returns:
        What was found, the fastest that is close enough first.
    """
    known = candidates(answering, batches[0], autocast)
    engines = {name: make() for name, make in known.items() if name != "compile"}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine(batches[0])
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            times[name].append(_seconds(engine, batches[0]))
    reference = [eager(answering)(images) for images in batches]
    found = [
        compared(name, [engine(images) for images in batches], reference, 1000 * statistics.median(times[name]))
        for name, engine in engines.items()
    ]
    return tuple(sorted(found, key=lambda trial: (trial.relative_difference > tolerance, trial.ms_per_batch)))


def compared(
    name: str, given: Sequence[tuple[Tensor, ...]], reference: Sequence[tuple[Tensor, ...]], ms_per_batch: float
) -> EngineTrial:
    """Return how an engine's answers differ from those of eager float32, batch by batch and signal by signal."""
    relative, largest, agreed, seen = 0.0, 0.0, 0, 0
    for answers, exact in zip(zip(*given, strict=True), zip(*reference, strict=True), strict=True):
        ours, theirs = torch.cat([part.float() for part in answers]), torch.cat([part.float() for part in exact])
        difference = ours - theirs
        relative = max(relative, float(difference.square().mean().sqrt() / theirs.square().mean().sqrt().clamp(min=1e-12)))
        if ours.dim() == 2:
            largest = max(largest, float(difference.abs().max()))
            agreed, seen = agreed + int((ours.argmax(1) == theirs.argmax(1)).sum()), seen + len(ours)
    return EngineTrial(
        engine=name,
        ms_per_batch=ms_per_batch,
        relative_difference=relative,
        max_logit_difference=largest if seen else None,
        agreement_percent=100 * agreed / seen if seen else None,
    )


def _seconds(engine: Engine, images: Tensor) -> float:
    begun = time.perf_counter()
    engine(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
