"""Classifier heads on the taps of frozen teachers, and the stage that trains them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from compress.errors import CompressError
from compress.methods._method import Method, Setting
from compress.methods._step import Step
from compress.models import find_shapes
from compress.recipe import TrainSection
from compress.text import name_teacher


class Heads(Method):
    """A linear head on each tap of each teacher, trained on the labels.

    Args:
        setting: Student, teachers, an image, the number of classes.
        taps: Names of the taps that get a head; `None` is all.
        head: flatten, pool4, gap or conv.
        epochs: Of its training.
        lr: Of its training.

    Raises:
        CompressError: A tap is unknown, there is none, or a head does not fit its map.
    """

    stage = "heads"

    def __init__(self, setting: Setting, *, taps: tuple[str, ...] | None, head: str, epochs: int, lr: float) -> None:
        super().__init__(setting)
        self.epochs, self.lr, self.kind = epochs, lr, head
        self.heads = nn.ModuleDict()
        self.places: dict[str, tuple[int, int]] = {}
        self.owners: dict[str, int] = {}
        wanted = _find_head_taps(setting, taps)
        for index, teacher in enumerate(setting.teachers):
            self.owners[name_teacher(index, len(setting.teachers))] = index
            features = find_shapes(teacher, setting.image).features
            for place in wanted[index]:
                name = f"head{place}" if len(setting.teachers) == 1 else f"teacher{index}_head{place}"
                self.heads[name] = build_head(head, features[place], setting.classes, teacher.taps[place])
                self.places[name] = (index, place)

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
        """Return the logits of members by name, [B, K] each."""
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
        return {f"ce.{name}": F.cross_entropy(logits.float(), step.batch.labels) for name, logits in heads.items()}

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of each head, [B, K]."""
        return self.compute_cohort(step, self.places)

    def product(self) -> nn.Module:
        """Return the heads."""
        return self.heads

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return a short cosine schedule: heads are linear probes."""
        plain = {"schedule": "cosine", "optimizer": "sgd", "warmup_epochs": 0.0, "ema_decay": None}
        return settings.model_copy(update={"epochs": self.epochs, "lr": self.lr, **plain})

    def identity(self) -> Mapping[str, object]:
        """Return the taps and the kind of head."""
        return {"heads": sorted(self.places.items()), "kind": self.kind}


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


def build_head(kind: str, feature: Tensor, classes: int, tap: str) -> nn.Module:
    """Return a head for maps [B, c, h, w], tokens [B, t, c] or vectors [B, c], that gives logits [B, classes].

    Args:
        kind: flatten, pool4, gap or conv.
        feature: What the tap gives for one image; only its shape is read.
        classes: Number of classes.
        tap: Its name, for messages.

    Raises:
        CompressError: The kind of head does not fit the shape.
    """
    side = {"flatten": None, "pool4": 4, "gap": 1, "conv": 1}[kind]
    if feature.dim() not in (2, 3, 4):
        raise CompressError(
            f"method.dih.taps: {tap!r} gives {list(feature.shape)}; name taps with maps [B, c, h, w], tokens [B, t, c] or "
            "vectors [B, c]"
        )
    if kind == "conv" and feature.dim() != 4:
        raise CompressError(
            f"method.dih.head: 'conv' needs maps [B, c, h, w], and {tap!r} gives {list(feature.shape)}; use gap"
        )
    if side is None or feature.dim() == 2:
        return nn.Sequential(nn.Flatten(), nn.Linear(feature[0].numel(), classes))
    if feature.dim() == 3:
        cells = min(side**2, feature.shape[1])
        return nn.Sequential(
            _ChannelsFirst(), nn.AdaptiveAvgPool1d(cells), nn.Flatten(), nn.Linear(feature.shape[2] * cells, classes)
        )
    height, width = (min(side, size) for size in feature.shape[2:])
    channels = feature.shape[1]
    before = [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()] if kind == "conv" else []
    return nn.Sequential(
        *before, nn.AdaptiveAvgPool2d((height, width)), nn.Flatten(), nn.Linear(feature.shape[1] * height * width, classes)
    )


class _ChannelsFirst(nn.Module):
    """Tokens [B, t, c] as [B, c, t], which is what pools read."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2)
