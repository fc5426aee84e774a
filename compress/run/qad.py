"""Quantization-aware distillation: a trained student learns to bear int8, from the teachers that it had.

The last rung of the ladder. The student computes as if in int8 (`compress.quantization.fake_quantize`) and is trained on
for a few epochs by the method that made it; preparatory stages and the teachers' answers are found in the cache. Validation,
which chooses the epoch, computes as if in int8 too, with ranges fitted to the weights as they then are. What is left behind are
float32 weights of the same names and graph, for an exporter to quantise as any others.

Of a finished stage only what is shipped is kept. Auxiliary modules that merely help to teach, such as translators and adapters,
start anew and would teach nonsense first; so a stage before fits them to the student, which is held still.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Parameter

from compress.data import Batch
from compress.errors import CompressError
from compress.fingerprint import hash_plugin
from compress.methods import Forward, Method, Setting, Step, Targets
from compress.models import Network
from compress.quantization import fake_quantize as fake_quant
from compress.quantization.fake_quantize import FakeQuantiser
from compress.recipe import MethodSection, TrainSection
from compress.records import Accuracy, StageResult
from compress.records.training import WEIGHTS
from compress.run.build import build_method
from compress.run.context import Run, Trained
from compress.run.stage import train_stage
from compress.run.students import train_preparatory_stages
from compress.system.files import sha256_of
from compress.training import checkpoint

_SCHEDULE: Mapping[str, object] = {"schedule": "cosine", "warmup_epochs": 0.0, "ema_decay": None, "engine": "eager"}
"""An average over so few steps would hardly leave the start, and no compiler sees the hooks that quantise."""


def distil_quantised(
    run: Run,
    trained: Trained,
    methods: Sequence[MethodSection],
    teachers: Sequence[Trained],
    *,
    calibration: NDArray[np.float32],
    saturation_fix: bool = False,
) -> Trained:
    """Return a student that was trained on to bear int8; `trained` and the teachers stay as they are.

    The result has the name of `trained`, and float32 weights on the CPU. Its stages have names of their own, such as
    `student-int8`; they are found in the cache, and an interrupted one continues.

    Args:
        run: What the stages of the run share; the one with which the student was trained.
        trained: The student.
        methods: How it was trained.
        teachers: Who taught it.
        calibration: Normalised images of the training split on which ranges are estimated, float32 [N, C, H, W].
        saturation_fix: Leave a bit of the weights unused, for processors whose int8 products saturate.

    Raises:
        CompressError: The student was not trained here or has nothing to quantise, or training does not work.
        Interrupted: The user stopped; the state is saved.
    """
    if trained.folder is None or not trained.results:
        raise CompressError(
            f"int8.rung: distillation trains on what was trained here, and the weights of {trained.name} were given; "
            "pin another rung"
        )
    networks = [copy.deepcopy(each.network).to(run.device) for each in teachers if isinstance(each.network, Network)]
    method = build_method(run, methods, networks)
    knowledge = [each.key for each in teachers]
    prepared = train_preparatory_stages(run, trained.name, method, methods, networks=networks, knowledge=knowledge)
    reads = {
        "trained": trained.key,
        "teachers": knowledge,
        "prepared": [result.key for result in prepared],
        "method": [section.model_dump(mode="json") for section in methods],
        "methods": [hash_plugin("methods", section.name) for section in methods],
        "source": [sha256_of(Path(file)) for file in (__file__, fake_quant.__file__)],
    }
    before = _Before(run, trained, method.stages()[-1], reads)
    checkpoint.load_weights(before.taught.product(), trained.folder / WEIGHTS, sha256=trained.results[-1].files[WEIGHTS])
    auxiliary = _fit_auxiliary(before)
    last = _train(before, auxiliary, calibration=np.ascontiguousarray(calibration), saturation_fix=saturation_fix)
    return last._replace(name=trained.name, network=last.network.to("cpu"), results=(*auxiliary, *last.results))


class _Before(NamedTuple):
    """What there is before anything is trained on."""

    run: Run
    trained: Trained
    taught: Method
    """The method, with the student's weights."""
    reads: Mapping[str, object]
    """What decides the result, for keys."""


def _fit_auxiliary(before: _Before) -> tuple[StageResult, ...]:
    """Fit what is trained and not shipped to the student as it is; most methods have nothing of the kind."""
    run, trained, taught, reads = before
    shipped = {id(parameter) for parameter in taught.product().parameters()}
    fresh = {phase: [each for each in group if id(each) not in shipped] for phase, group in taught.phases().items()}
    fresh = {phase: group for phase, group in fresh.items() if group}
    if not fresh:
        return ()
    wanted = {id(parameter) for group in fresh.values() for parameter in group}
    owners = [module for module in taught.modules() if any(id(each) in wanted for each in module.parameters(recurse=False))]
    settings = {**_SCHEDULE, "epochs": run.recipe.int8.epochs, "select": "last"}
    method = _Continued(taught, fresh, product=nn.ModuleList(owners), settings=settings)
    name, how = f"{trained.name}-int8-auxiliary", f"{trained.method}, auxiliary modules"
    return train_stage(run, name, method, run.recipe.train, reads=reads, method_name=how).results


def _train(
    before: _Before, auxiliary: Sequence[StageResult], *, calibration: NDArray[np.float32], saturation_fix: bool
) -> Trained:
    """Train the student on while it computes as if in int8."""
    run, trained, taught, reads = before

    def answers(images: Tensor) -> list[Tensor]:
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)  # nobody reads them
        return list(taught.predictions(taught.step(Batch(images, labels))).values())

    images = torch.from_numpy(calibration).to(run.device)
    quantiser = FakeQuantiser(taught, answers, images, saturation_fix=saturation_fix)
    settings = {**_SCHEDULE, "epochs": run.recipe.int8.epochs, "lr": run.recipe.int8.lr, "select": "best"}
    method = _Continued(taught, taught.phases(), product=taught.product(), settings=settings, quantiser=quantiser)
    inputs = {
        **reads,
        "auxiliary": [result.key for result in auxiliary],
        "calibration": hashlib.sha256(repr(calibration.shape).encode() + calibration.tobytes()).hexdigest(),
        "saturation_fix": saturation_fix,
    }
    kept = any(each.images == "training" and each.store == "kept" for each in trained.results[-1].teaching)
    name, how = f"{trained.name}-int8{'-saturation' if saturation_fix else ''}", f"{trained.method}, quantization-aware"
    with quantiser.active():
        return train_stage(run, name, method, run.recipe.train, reads=inputs, method_name=how, shared=kept)


class _Continued(Method):
    """A method that goes on with a student that is trained already.

    Args:
        taught: The method, with the student's weights.
        phases: What is trained.
        product: What the stage leaves behind.
        settings: In what it is trained otherwise than the student was.
        quantiser: Is active while the student computes as if in int8.
    """

    stage: str = "int8"  # type: ignore[misc]
    moves_teacher: bool = False  # type: ignore[misc]

    def __init__(
        self,
        taught: Method,
        phases: Mapping[str, list[Parameter]],
        *,
        product: nn.Module,
        settings: Mapping[str, object],
        quantiser: FakeQuantiser | None = None,
    ) -> None:
        teachers = tuple(teacher for teacher in taught.teachers if isinstance(teacher, Network))
        super().__init__(Setting(taught.student, teachers, torch.empty(0), 0))
        self.taught, self.left, self.moves_teacher = taught, product, taught.moves_teacher
        self.trained, self.settings, self.quantiser = dict(phases), dict(settings), quantiser
        self.fitted = quantiser is None
        if quantiser is not None:  # as buffers a stage that continues finds them as they were
            self.register_buffer("scales", quantiser.scales)
            self.register_buffer("zero_points", quantiser.zero_points)

    def phases(self) -> dict[str, list[Parameter]]:
        """Return what is trained."""
        return self.trained

    def step(
        self,
        batch: Batch,
        *,
        phase: str = "student",
        autocast: torch.dtype | None = None,
        targets: Targets | None = None,
        forward: Forward | None = None,
    ) -> Step:
        """Return one batch as the method sees it."""
        return self.taught.step(batch, phase=phase, autocast=autocast, targets=targets, forward=forward)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of the method."""
        return self.taught.losses(step)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; whoever leaves training asks next for predictions, with ranges that fit the weights."""
        self.fitted = self.quantiser is None
        return super().train(mode)

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of the method as a file made of these weights would give them."""
        if self.quantiser is not None and not self.fitted:
            self.quantiser.calibrate()
        self.fitted = True
        return self.taught.predictions(step)

    def choose(self, scores: Mapping[str, Accuracy]) -> dict[str, Accuracy]:
        """Settle what the method decides by validation."""
        return self.taught.choose(scores)

    def deployable(self) -> nn.Module:
        """Return the network that the method ships."""
        return self.taught.deployable()

    def product(self) -> nn.Module:
        """Return what this stage leaves behind."""
        return self.left

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return a short cosine schedule with the rest as the student was trained, if the method can be trained so."""
        return self.taught.schedule(settings.model_copy(update=self.settings))
