"""Classifier heads on the taps of frozen teachers, and the stage that trains them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Parameter

from compress.data import Batch, Batches
from compress.errors import CompressError
from compress.freezing import evaluating
from compress.methods._analyses.accuracy import measure_predictions
from compress.methods._heads.layers import build_dense_head, build_head
from compress.methods._method import Method, Setting
from compress.methods._step import Signals, Step
from compress.models import find_shapes
from compress.recipe import TrainSection
from compress.records import Analysis
from compress.statistics.calibration import compute_cross_entropy, fit_temperature
from compress.tasks import CLASSIFICATION
from compress.text import name_teacher

log = logging.getLogger(__name__)

ANALYSED_IMAGES = 1000
"""Training images on which the finished heads are looked at."""
LARGEST_GAP_POINTS = 15.0
"""A head that is so much better on its training images than on held-out ones is warned of."""
LARGEST_TEMPERATURE = 2.0
"""A head that needs a larger temperature is warned of."""


class HeadsTraining(NamedTuple):
    """How heads are built and trained."""

    kind: str
    """flatten, pool4, gap or conv."""
    standardise: bool = True
    """Standardise the channels before the linear layer."""
    calibrate: bool = True
    """Divide the logits by the temperature that fits the validation images best."""
    changes: Mapping[str, object] = {}
    """What differs from how the recipe trains the student, by name of the field of `train`."""


class Heads(Method):
    """A linear head on each tap of each teacher, trained on the labels.

    Args:
        setting: Student, teachers, an image, the number of classes.
        taps: Names of the taps that get a head; `None` is all.
        training: How heads are built and trained.

    Raises:
        CompressError: A tap is unknown, there is none, or a head does not fit its map.
    """

    needs_labels = "heads learn from labels alone"

    stage = "heads"
    lr_field = "method.dih.heads_lr"

    def __init__(self, setting: Setting, *, taps: tuple[str, ...] | None, training: HeadsTraining) -> None:
        super().__init__(setting)
        self.how = training
        self.heads = nn.ModuleDict()
        self.temperatures: dict[str, float] = {}
        """By which `conclude` divided the logits of each head."""
        self.places: dict[str, tuple[int, int]] = {}
        self.taps: dict[str, str] = {}
        self.owners: dict[str, int] = {}
        wanted = _find_head_taps(setting, taps)
        for index, teacher in enumerate(setting.teachers):
            self.owners[name_teacher(index, len(setting.teachers))] = index
            features = find_shapes(teacher, setting.image).features
            for place in wanted[index]:
                name = f"head{place}" if len(setting.teachers) == 1 else f"teacher{index}_head{place}"
                where = features[place], setting.classes, teacher.taps[place]
                self.heads[name] = (
                    build_dense_head(*where, standardise=training.standardise)
                    if setting.task.is_dense
                    else build_head(training.kind, *where, standardise=training.standardise)
                )
                self.places[name], self.taps[name] = (index, place), teacher.taps[place]

    def members(self) -> list[str]:
        """Return the names of the whole cohort: each teacher, then its heads from shallow to deep."""
        names = []
        for teacher, index in self.owners.items():
            names += [teacher, *(name for name, (owner, _) in self.places.items() if owner == index)]
        return names

    def choose_members(self, members: tuple[str, ...] | None) -> list[str]:
        """Return the names of the cohort.

        Args:
            members: Names that were asked for; `None` is all.

        Raises:
            CompressError: A name is unknown or stands twice, or there is no head among them.
        """
        where, known = "method.dih.members", self.members()
        wanted = known if members is None else list(members)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise CompressError(f"{where}: there is no {unknown[0]!r}; there are: {', '.join(known)}")
        if len(set(wanted)) < len(wanted):
            raise CompressError(f"{where}: {', '.join(wanted)} names somebody twice; name each once, with a larger alpha")
        if not any(name in self.places for name in wanted):
            raise CompressError(
                f"{where}: {', '.join(wanted) or 'nobody'} is no head; add one of: {', '.join(self.places)}, or use method 'kd'"
            )
        return wanted

    def compute_cohort(self, step: Step, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the logits of members by name, [B, K, ...] each."""
        logits = {}
        for name in names:
            if name in self.places:
                index, place = self.places[name]
                logits[name] = step.apply_to_teacher(self.heads[name], index, place)
            else:
                logits[name] = step.teacher(self.owners[name]).logits
        return logits

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the heads alone."""
        return {"heads": list(self.heads.parameters())}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy of each head, []."""
        heads = self.compute_cohort(step, self.places)
        return {f"ce.{name}": step.supervise(logits) for name, logits in heads.items()}

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of each head, [B, K, ...]."""
        return self.compute_cohort(step, self.places)

    def product(self) -> nn.Module:
        """Return the heads."""
        return self.heads

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return a cosine schedule without warm-up by SGD, with what the heads have of their own."""
        plain = {"schedule": "cosine", "optimizer": "sgd", "warmup_epochs": 0.0, "ema_decay": None, "calibrate": False}
        return settings.model_copy(update=plain | dict(self.how.changes))

    def conclude(self, validation: Batches, get_signals: Callable[[Batch], Signals | None]) -> None:
        """Divide the logits of each head by the temperature at which it fits the held-out images best.

        Args:
            validation: The held-out images.
            get_signals: Returns outputs of frozen teachers for a batch.
        """
        if not self.how.calibrate:
            return
        logits, labels = self._compute_logits(validation.epoch(0), get_signals)
        for name, head in self.heads.items():
            self.temperatures[name] = temperature = fit_temperature(logits[name], labels)
            with torch.no_grad():
                for layer in head.children():
                    if isinstance(layer, nn.Linear):  # the last, and the only one
                        layer.weight.div_(temperature)
                        layer.bias.div_(temperature)

    def analyse(self, train: Batches, validation: Batches) -> tuple[Analysis, ...]:
        """Return how well each head knows training and held-out images, and warn of those that know little else than labels."""
        if self.task.name != CLASSIFICATION.name:
            return (self._analyse_metric(validation),)
        of_train, train_labels = self._compute_logits(_take_images(train, ANALYSED_IMAGES))
        of_held_out, labels = self._compute_logits(validation.epoch(0))
        rows = []
        for name, tap in self.taps.items():
            known, seen = _measure_top1(of_held_out[name], labels), _measure_top1(of_train[name], train_labels)
            temperature = self.temperatures.get(name, 1.0)
            nll = compute_cross_entropy(of_held_out[name], labels)
            _warn_of_head(name, seen - known, temperature, nll, np.log(of_held_out[name].shape[1]))
            rows.append((name, tap, f"{seen:.1f} %", f"{known:.1f} %", f"{nll:.3f}", f"{temperature:.2f}"))
        note = (
            f"Top-1 on {len(train_labels)} training images as training sees them and on the {len(labels)} validation images; "
            "cross-entropy with the labels after the division by the temperature, which was fitted on the latter."
        )
        columns = ("head", "tap", "training top-1", "validation top-1", "cross-entropy", "temperature")
        return (Analysis(title="Heads of the cohort", note=note, columns=columns, rows=tuple(rows)),)

    def _analyse_metric(self, validation: Batches) -> Analysis:
        """Return how well each head knows held-out images, which are judged batch by batch, for maps are large."""
        found = measure_predictions(self, validation)
        rows = tuple((name, tap, f"{found[name].percent:.1f} %") for name, tap in self.taps.items())
        title = f"validation {self.task.metric.title}"
        return Analysis(
            title="Heads of the cohort", note="Heads on the teacher's maps, on the validation images.",
            columns=("head", "tap", title), rows=rows,
        )  # fmt: skip

    def _compute_logits(
        self, batches: Iterable[Batch], get_signals: Callable[[Batch], Signals | None] = lambda _batch: None
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
        """Return the logits of each head, [N, K], and the labels, [N]."""
        found: list[dict[str, Tensor]] = []
        labels: list[Tensor] = []
        with evaluating(self):
            for batch in batches:
                found.append(self.predictions(self.step(batch, signals=get_signals(batch))))
                labels.append(batch.labels)
        logits = {name: torch.cat([each[name].float() for each in found]).cpu().numpy() for name in self.places}
        return logits, torch.cat(labels).cpu().numpy()

    def identity(self) -> Mapping[str, object]:
        """Return the taps, and how heads are built and calibrated."""
        return {"heads": sorted(self.places.items()), **self.how._replace(changes={})._asdict()}


def _take_images(batches: Batches, least: int) -> Iterator[Batch]:
    """Yield the first batches of an epoch, until they hold so many images."""
    images = 0
    for batch in batches.epoch(0):
        yield batch
        images += len(batch.labels)
        if images >= least:
            return


def _measure_top1(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the top-1 accuracy of logits [N, K] against labels [N], in percent."""
    return 100 * float((logits.argmax(axis=1) == labels).mean())


def _warn_of_head(name: str, gap_points: float, temperature: float, nll: float, of_chance: float) -> None:
    """Warn of a head that knows no more than chance, has learnt its training images by heart, or was far too sure of itself."""
    if nll >= of_chance:
        log.warning(
            "method.dih: %s knows no more than chance (cross-entropy %.3g on held-out images, a guess has %.3g): its training "
            "did not hold, or its map says nothing; lower heads_lr, raise heads_epochs, or leave it out (members)",
            name, nll, of_chance,
        )  # fmt: skip
    if gap_points > LARGEST_GAP_POINTS:
        log.warning(
            "method.dih: %s is %.0f points better on training images than on held-out ones: it mostly repeats their labels; "
            "pool its map (head: pool4 or gap), or give it more images",
            name, gap_points,
        )  # fmt: skip
    if temperature > LARGEST_TEMPERATURE:
        log.warning(
            "method.dih: %s was too sure of itself by a factor of %.1f, which is mended; lower heads_lr or heads_epochs",
            name, temperature,
        )  # fmt: skip


def _find_head_taps(setting: Setting, taps: tuple[str, ...] | None) -> list[list[int]]:
    """Return for each teacher the places of the taps that get a head.

    Raises:
        CompressError: A tap is unknown, or there is none.
    """
    names = [name_teacher(index, len(setting.teachers)) for index in range(len(setting.teachers))]
    owned = [
        {tap: (tap, f"{name}.{tap}") for tap in teacher.taps} for name, teacher in zip(names, setting.teachers, strict=True)
    ]
    known = {called for taps_of in owned for both in taps_of.values() for called in both}
    unknown = [tap for tap in taps or () if tap not in known]
    if unknown or taps == () or not known:
        there = "; ".join(f"{name}: {', '.join(taps_of) or 'none'}" for name, taps_of in zip(names, owned, strict=True))
        what = f"there is no tap {unknown[0]!r}" if unknown else "there is no tap to put a head on"
        raise CompressError(f"method.dih.taps: {what}; name some of the taps that there are: {there}")
    return [
        [place for place, both in enumerate(taps_of.values()) if taps is None or not set(both).isdisjoint(taps)]
        for taps_of in owned
    ]
