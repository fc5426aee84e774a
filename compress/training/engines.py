"""Choose what runs a network in training: eager torch, or an engine of `compile.py` whose gradients are those of eager torch.

`engine` in the recipe's `train` names it; `auto` times each for a few steps and takes the fastest. Whether it does follows from
the work alone, and what it took is kept in the cache.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from compress.data import Batch
from compress.errors import CompressError, Interrupted, Unwritable
from compress.events import Events
from compress.fingerprint import describe_training, make_key
from compress.freezing import freeze_all_but, list_trained_parameters
from compress.methods import Forward, Method
from compress.models import Network, count_macs
from compress.records import EngineTrial
from compress.records.training import NOT_FINITE
from compress.teachers.engines import keep_trials
from compress.teachers.identity import hash_module
from compress.teachers.signals import run_dry_step, take_first_images
from compress.training.compile import compile_network, explain_compile_errors

ROUNDS = 5
"""Interleaved timings of each engine in a trial; the median counts."""
WORTH_A_TRIAL_MACS = {"cpu": 1e13, "cuda": 1e16}
"""Multiply-accumulates of the forward passes of a stage from which on engines are tried: about ten minutes of training on two
AVX2 cores; less ends before compiling, which takes a minute or more, has paid. A fixed number instead of a timing, so that
whether eager torch is left does not depend on the load of the machine."""
PAYS = 1.05
"""How many times as fast as eager torch an engine must be: less is noise, and would make results depend on it."""
TOLERANCE = 0.03
"""The largest accepted difference of the gradients from those of eager float32: root mean square over theirs."""
SLACK = 1.5
"""In reduced precision, an engine may also differ so many times as much from float32 as eager torch does in that precision."""


class StudentEngine(NamedTuple):
    """How the network of a stage is run in training steps."""

    forward: Forward | None = None
    """From images to logits and maps; `None` is the network itself."""
    engine: str = "eager"
    trials: tuple[EngineTrial, ...] = ()
    """What was tried, the chosen engine first; empty where nothing but eager torch was."""


def choose_engine(
    method: Method,
    batch: Batch,
    *,
    engine: str,
    steps: int,
    autocast: torch.dtype | None,
    events: Events,
    decision: Path | None = None,
    shared: Path | None = None,
) -> StudentEngine:
    """Choose how the network that a stage trains is run.

    Args:
        method: The stage, on its device; it ends as it was.
        batch: One training batch of full size.
        engine: As the recipe's `train` has it.
        steps: Steps of the stage.
        autocast: The precision of the training.
        events: Receives what was tried and left out.
        decision: File that keeps what was chosen, so that a stage that continues does not choose anew.
        shared: Folder that keeps what `auto` chose, for every later stage that trains the same network on such batches.

    Raises:
        CompressError: The engine that the recipe names does not run here, cannot take the network, or gives other gradients.
    """
    network = method.student
    trained = {id(parameter) for parameter in list_trained_parameters(method)}
    if engine == "eager" or not any(id(parameter) in trained for parameter in network.parameters()):
        return StudentEngine()
    torch.compiler.reset()  # all that is compiled shares one limit, and what earlier stages compiled is not run again
    taps = run_dry_step(method, take_first_images(batch)).student_taps
    trial = _Trial(method, network, batch, taps, autocast=autocast, events=events)
    if engine == "auto" and not trial.is_worth(steps):
        return StudentEngine()
    make = trial.try_all if engine == "auto" else lambda: (trial.try_one(engine),)
    known = shared / f"{trial.make_key()}.json" if shared is not None and engine == "auto" else None
    with _hold_as_trained(method):
        tried = keep_trials(make, own=decision, shared=known, events=events)
    chosen = tried[0].engine
    if chosen == "eager":
        return StudentEngine(trials=tried if len(tried) > 1 else ())
    return StudentEngine(trial.get_forward(chosen), chosen, tried)


class _Trial:
    """Forward and backward passes of a network on one batch, by each engine."""

    def __init__(
        self,
        method: Method,
        network: Network,
        batch: Batch,
        taps: Sequence[int],
        *,
        autocast: torch.dtype | None,
        events: Events,
    ) -> None:
        self._network, self._batch, self._taps, self._task = network, batch, taps, method.task
        self._autocast, self._events, self._device = autocast, events, batch.images.device
        self._built: dict[str, Forward] = {}

    def get_forward(self, engine: str) -> Forward:
        """Return the network as an engine runs it, as it was tried where it was."""
        if engine not in self._built:
            self._built[engine] = compile_network(engine, self._network, self._taps, self._device)
        return self._built[engine]

    def is_worth(self, steps: int) -> bool:
        """Return whether so many steps are enough work for a trial; people are told where they are not."""
        images, enough = self._batch.images, WORTH_A_TRIAL_MACS[self._device.type]
        macs = count_macs(self._network, images[:1]) * len(images) * steps
        if macs < enough:
            self._events.say(
                f"training: eager torch; {macs:.1e} multiply-accumulates are too few for a trial of engines, which begins at "
                f"{enough:.0e}"
            )
        return macs >= enough

    def make_key(self) -> str:
        """Return the key of a trial: the sha256 over all that it depends on besides the load of the machine."""
        images = self._batch.images
        return make_key(
            network=hash_module(self._network), taps=self._taps, images=list(images.shape), strides=images.stride(),
            autocast=str(self._autocast), device=self._device.type, machine=dict(describe_training()),
        )  # fmt: skip

    def try_all(self) -> tuple[EngineTrial, ...]:
        """Return what each engine of this device did, the one to take first."""
        eager = self._network.outputs
        self._run_pass(eager)  # the first is slow
        forwards: dict[str, Forward] = {"eager": eager}
        for name in ("compile", *(["cuda_graphs"] if self._device.type == "cuda" else [])):
            try:
                self._run_pass(self.get_forward(name))
                forwards[name] = self.get_forward(name)
            except (Interrupted, Unwritable):
                raise
            except (CompressError, torch.OutOfMemoryError) as error:
                self._leave_out(name, str(error))
        times = self._time_rounds(forwards)
        tried = [self._compare_gradients(name, forward, statistics.median(times[name])) for name, forward in forwards.items()]
        found = [trial for trial in tried if trial.relative_difference < NOT_FINITE]
        for trial in tried:
            if trial not in found:
                self._leave_out(trial.engine, "its gradients are not finite")
        self._events.say(
            f"training: {', '.join(f'{each.engine} {each.ms_per_batch:.0f} ms' for each in found)} forward and backward"
        )
        return tuple(sorted(found, key=lambda each: (not _pays(each, found[0]), each.ms_per_batch)))

    def _leave_out(self, engine: str, why: str) -> None:
        self._built.pop(engine, None)
        self._events.say(f"training: engine {engine} is left out: {why.removesuffix('; use eager')}")

    def try_one(self, engine: str) -> EngineTrial:
        """Return what the engine that the recipe names does.

        Raises:
            CompressError: It cannot run, or its gradients are too far from those of eager torch.
        """
        forward = self.get_forward(engine)
        self._events.say(f"training: {engine} compiles, which takes a minute or more")
        self._run_pass(forward)
        found = self._compare_gradients(engine, forward, self._time_pass_ms(forward))
        allowed = _compute_allowed_difference(self._compare_gradients("eager", self._network.outputs, 0.0))
        if not found.relative_difference <= allowed:
            raise CompressError(
                f"train.engine: the gradients of {engine} differ from those of eager float32 by "
                f"{found.relative_difference:.2g} of their size, more than {allowed:.2g}; use eager"
            )
        return found

    def _time_rounds(self, forwards: Mapping[str, Forward]) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in forwards}
        for _ in range(ROUNDS):
            for name, forward in forwards.items():
                times[name].append(self._time_pass_ms(forward))
        return times

    def _time_pass_ms(self, forward: Forward) -> float:
        begun = time.perf_counter()
        self._run_pass(forward)
        return 1000 * (time.perf_counter() - begun)

    def _compare_gradients(self, name: str, forward: Forward, milliseconds: float) -> EngineTrial:
        """Return a trial; its difference is `NOT_FINITE` where a gradient is not finite.

        Raises:
            CompressError: A gradient of eager torch is not finite, so that there is nothing to compare with.
        """
        ours, exact = self._run_pass(forward), self._compute_gradients(self._network.outputs, None)
        relative = (ours - exact).square().mean().sqrt() / exact.square().mean().sqrt().clamp(min=1e-12)
        difference = min(float(relative.nan_to_num(torch.inf)), NOT_FINITE)
        if name == "eager" and difference == NOT_FINITE:
            raise CompressError("train.engine: the first gradients of eager torch are not finite; use eager, or precision fp32")
        return EngineTrial(engine=name, ms_per_batch=milliseconds, relative_difference=difference)

    def _run_pass(self, forward: Forward) -> Tensor:
        return self._compute_gradients(forward, self._autocast)

    def _compute_gradients(self, forward: Forward, autocast: torch.dtype | None) -> Tensor:
        """Return the gradients of one step as a vector, once the device is done; statistics and generators end as they were."""
        kept = [buffer.clone() for buffer in self._network.buffers()]
        devices = [self._device] if self._device.type == "cuda" else []
        images, labels = self._batch.images, self._batch.labels
        trained = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            with torch.autocast(self._device.type, dtype=autocast, enabled=autocast is not None):
                found = forward(images)
            read = [found.features[place].float().square().mean() for place in self._taps]
            loss = self._task.compute_loss(found.logits, labels, size=(images.shape[2], images.shape[3]))
            total = torch.stack([loss, *read]).sum()
            with explain_compile_errors():  # the backward pass is compiled when it is first needed
                gradients = torch.autograd.grad(total, trained, allow_unused=True, materialize_grads=True)
        for buffer, value in zip(self._network.buffers(), kept, strict=True):
            buffer.copy_(value)
        whole = torch.cat([gradient.detach().float().flatten() for gradient in gradients])
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return whole


def _pays(trial: EngineTrial, eager: EngineTrial) -> bool:
    if trial is eager:
        return True
    return trial.relative_difference <= _compute_allowed_difference(eager) and PAYS * trial.ms_per_batch < eager.ms_per_batch


def _compute_allowed_difference(eager: EngineTrial) -> float:
    """Return how far gradients may be from those of eager float32, given how far eager torch's are in training's precision."""
    return max(TOLERANCE, SLACK * eager.relative_difference)


@contextmanager
def _hold_as_trained(method: Method) -> Iterator[None]:
    """Let the stage be as its training has it for a while."""
    freeze_all_but(method, list_trained_parameters(method))
    try:
        yield
    finally:
        freeze_all_but(method, ())
