"""Quantization-aware distillation: train a student on, by the teachers that it had, while it computes as if in int8.

The last rung of the ladder. The student computes as if in int8 (`compress.quantization.fake_quantize`) and is trained on
for a few epochs by the method that made it; preparatory stages and teacher outputs are found in the cache. Validation,
which chooses the epoch, computes as if in int8 too, with ranges fitted to the weights as they then are. The result are
float32 weights of the same names and graph, for an exporter to quantize as any others.

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
from compress.methods import Forward, Method, Setting, Signals, Step
from compress.models import Network
from compress.quantization import fake_quantize
from compress.quantization.fake_quantize import FakeQuantizer
from compress.recipe import MethodSection, TrainSection
from compress.records import Accuracy, StageResult
from compress.records.training import WEIGHTS
from compress.run.build import build_method
from compress.run.context import Run, Trained
from compress.run.stage import train_stage
from compress.run.students import train_preparatory_stages
from compress.system.files import hash_file
from compress.training import checkpoint

_SCHEDULE: Mapping[str, object] = {
    "schedule": "cosine", "warmup_epochs": 0.0, "ema_decay": None, "engine": "eager", "calibrate": False,
}  # fmt: skip
"""An average over so few steps would hardly leave the start, no compiler sees the hooks that quantize, and the student was
calibrated before."""


def distil_quantized(
    run: Run,
    trained: Trained,
    methods: Sequence[MethodSection],
    teachers: Sequence[Trained],
    *,
    calibration: NDArray[np.float32],
    saturation_fix: bool = False,
) -> Trained:
    """Train a student on while it computes as if in int8, and return it; `trained` and the teachers stay as they are.

    The result has the name of `trained`, and float32 weights on the CPU. Its stages have names of their own, such as
    `student-int8`; they are found in the cache, and an interrupted one continues.

    Args:
        run: Run context, the one with which the student was trained.
        trained: The student.
        methods: The methods by which it was trained.
        teachers: Its teachers, in the order of the recipe.
        calibration: Normalised images of the training split on which ranges are estimated, float32 [N, C, H, W].
        saturation_fix: Leave a bit of the weights unused, for processors whose int8 products saturate.

    Raises:
        CompressError: The student was not trained here or has nothing to quantize, or training does not work.
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
    decisive = {
        "trained": trained.key,
        "teachers": knowledge,
        "prepared": [result.key for result in prepared],
        "method": [section.model_dump(mode="json") for section in methods],
        "methods": [hash_plugin("methods", section.name) for section in methods],
        "source": [hash_file(Path(file)) for file in (__file__, fake_quantize.__file__)],
    }
    start = _Start(run, trained, method.stages()[-1], decisive)
    checkpoint.load_weights(start.method.product(), trained.folder / WEIGHTS, sha256=trained.results[-1].files[WEIGHTS])
    auxiliary = _fit_auxiliary(start)
    last = _train(start, auxiliary, calibration=np.ascontiguousarray(calibration), saturation_fix=saturation_fix)
    return last._replace(name=trained.name, network=last.network.to("cpu"), results=(*auxiliary, *last.results))


class _Start(NamedTuple):
    """The trained student and its method, from which training goes on."""

    run: Run
    trained: Trained
    method: Method
    """Holds the student's weights."""
    decisive: Mapping[str, object]
    """What decides the result, for keys of the cache."""


def _fit_auxiliary(start: _Start) -> tuple[StageResult, ...]:
    """Train the modules that are not shipped while the student is held still; most methods have none."""
    run, trained, method, decisive = start
    shipped = {id(parameter) for parameter in method.product().parameters()}
    fresh = {phase: [each for each in group if id(each) not in shipped] for phase, group in method.phases().items()}
    fresh = {phase: group for phase, group in fresh.items() if group}
    if not fresh:
        return ()
    wanted = {id(parameter) for group in fresh.values() for parameter in group}
    owners = [module for module in method.modules() if any(id(each) in wanted for each in module.parameters(recurse=False))]
    settings = {**_SCHEDULE, "epochs": run.recipe.int8.epochs, "select": "last"}
    continued = _Continued(method, fresh, product=nn.ModuleList(owners), settings=settings)
    name, how = f"{trained.name}-int8-auxiliary", f"{trained.method}, auxiliary modules"
    return train_stage(run, name, continued, run.recipe.train, reads=decisive, method_name=how).results


def _train(
    start: _Start, auxiliary: Sequence[StageResult], *, calibration: NDArray[np.float32], saturation_fix: bool
) -> Trained:
    """Train the student on while it computes as if in int8."""
    run, trained, method, decisive = start

    def compute_logits(images: Tensor) -> list[Tensor]:  # [B, C, H, W] to each [B, K]
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)  # predictions do not depend on them
        return list(method.predictions(method.step(Batch(images, labels))).values())

    images = torch.from_numpy(calibration).to(run.device)
    quantizer = FakeQuantizer(method, compute_logits, images, saturation_fix=saturation_fix)
    settings = {**_SCHEDULE, "epochs": run.recipe.int8.epochs, "lr": run.recipe.int8.lr, "select": "best"}
    continued = _Continued(method, method.phases(), product=method.product(), settings=settings, quantizer=quantizer)
    decisive = {
        **decisive,
        "auxiliary": [result.key for result in auxiliary],
        "calibration": hashlib.sha256(repr(calibration.shape).encode() + calibration.tobytes()).hexdigest(),
        "saturation_fix": saturation_fix,
    }
    kept = any(each.images == "training" and each.store == "kept" for each in trained.results[-1].teacher_outputs)
    name, how = f"{trained.name}-int8{'-saturation' if saturation_fix else ''}", f"{trained.method}, quantization-aware"
    with quantizer.active():
        return train_stage(run, name, continued, run.recipe.train, reads=decisive, method_name=how, shared=kept)


class _Continued(Method):
    """Continues a method with a student that is trained already.

    Args:
        method: The method, with the student's weights.
        phases: The parameters that are trained, by phase.
        product: The module whose weights the stage saves.
        settings: Fields of the section `train` that are other than those with which the student was trained.
        quantizer: Active while the student computes as if in int8; its grids are fitted anew before each validation.
    """

    stage: str = "int8"  # type: ignore[misc]
    moves_teacher: bool = False  # type: ignore[misc]

    def __init__(
        self,
        method: Method,
        phases: Mapping[str, list[Parameter]],
        *,
        product: nn.Module,
        settings: Mapping[str, object],
        quantizer: FakeQuantizer | None = None,
    ) -> None:
        teachers = tuple(teacher for teacher in method.teachers if isinstance(teacher, Network))
        super().__init__(Setting(method.student, teachers, torch.empty(0), 0, task=method.task))
        self.method, self.saved, self.moves_teacher = method, product, method.moves_teacher
        self.trained, self.settings, self.quantizer = dict(phases), dict(settings), quantizer
        self.is_calibrated = quantizer is None
        if quantizer is not None:  # as buffers a stage that continues finds them as they were
            self.register_buffer("scales", quantizer.scales)
            self.register_buffer("zero_points", quantizer.zero_points)

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the parameters that are trained, by phase."""
        return self.trained

    def step(
        self,
        batch: Batch,
        *,
        phase: str = "student",
        autocast: torch.dtype | None = None,
        signals: Signals | None = None,
        forward: Forward | None = None,
    ) -> Step:
        """Return the step of the method on a batch, its images [B, C, H, W] and labels [B]."""
        return self.method.step(batch, phase=phase, autocast=autocast, signals=signals, forward=forward)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of the method, each []."""
        return self.method.losses(step)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; the next predictions calibrate first, for the weights may have moved since."""
        self.is_calibrated = self.quantizer is None
        return super().train(mode)

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of the method, each [B, K], as an int8 file of these weights would give them."""
        if self.quantizer is not None and not self.is_calibrated:
            self.quantizer.calibrate()
        self.is_calibrated = True
        return self.method.predictions(step)

    def choose(self, scores: Mapping[str, Accuracy]) -> dict[str, Accuracy]:
        """Return the scores by which the method decides."""
        return self.method.choose(scores)

    def deployable(self) -> nn.Module:
        """Return the network that the method ships."""
        return self.method.deployable()

    def product(self) -> nn.Module:
        """Return the module whose weights the stage saves."""
        return self.saved

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return a short cosine schedule with the rest as the student was trained, if the method can be trained so."""
        return self.method.schedule(settings.model_copy(update=self.settings))
