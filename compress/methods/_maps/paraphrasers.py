"""Paraphrasers: autoencoders that reduce a teacher's map to factors, and the stage that trains them."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from compress.errors import CompressError
from compress.methods._maps.translators import Pair, build_layers, build_translator
from compress.methods._method import Method, Setting
from compress.methods._step import Step
from compress.recipe import TrainSection
from compress.text import name_teacher


class Paraphraser(nn.Module):
    """An autoencoder of maps [B, channels, h, w]: an `encoder` like a translator, and the mirrored `decoder`.

    Args:
        channels: Of the map.
        factors: Channels of what the encoder keeps of it.

    Source:
        As of `build_translator`.
    """

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = build_translator(channels, factors)
        self.decoder = nn.Sequential(*build_layers(nn.ConvTranspose2d, factors, factors, channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return the reconstruction of maps [B, channels, h, w]."""
        reconstructed: Tensor = self.decoder(self.encoder(features))
        return reconstructed


class Paraphrasers(Method):
    """An autoencoder of each teacher's map, trained to reconstruct it.

    Args:
        setting: Student, teachers, an image, the number of classes.
        pairs: Whose teachers' taps are reconstructed.
        rate: Factors for each channel of the map.
        epochs: Of its training.
        lr: Of its training.

    Raises:
        CompressError: No factor would be left.
    """

    needs_labels = ""

    stage = "paraphrasers"
    lr_field = "method.feed.paraphrasers_lr"

    def __init__(self, setting: Setting, pairs: list[Pair], *, rate: float, epochs: int, lr: float) -> None:
        super().__init__(setting)
        self.rate, self.epochs, self.lr = rate, epochs, lr
        narrowest = min(pair.teacher_channels for pair in pairs)
        if round(rate * narrowest) < 1:
            raise CompressError(f"method.feed.paraphrase: {rate:g} leaves nothing of {narrowest} channels; raise it")
        self.places = {_name_map(setting, pair): (pair.teacher, pair.teacher_tap) for pair in pairs}
        self._by_place = {
            (pair.teacher, pair.teacher_tap): Paraphraser(pair.teacher_channels, count_factors(pair, rate)) for pair in pairs
        }
        self._networks = setting.teachers
        self.paraphrasers = nn.ModuleDict({name: self._by_place[place] for name, place in self.places.items()})

    def encoder(self, pair: Pair) -> nn.Module:
        """Return what gives the factors of a teacher's map: [B, c, h, w] -> [B, factors, h, w]."""
        return self._by_place[pair.teacher, pair.teacher_tap].encoder

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the autoencoders alone."""
        return {"paraphrasers": list(self.paraphrasers.parameters())}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the error of each reconstruction, averaged over all elements, []."""
        terms = {}
        for name, (teacher, tap) in self.places.items():
            original = step.teacher(teacher).features[tap]
            terms[f"l1.{name}"] = F.l1_loss(step.apply(self.paraphrasers[name], original).float(), original.float())
        return terms

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of each teacher with the reconstruction in the place of its map, [B, K]."""
        return {name: self._run_with_reconstruction(name, step.batch.images) for name in self.places}

    def product(self) -> nn.Module:
        """Return the autoencoders."""
        return self.paraphrasers

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return a short cosine schedule with AdamW; the last epoch, which reconstructs best, is kept."""
        plain = {"schedule": "cosine", "optimizer": "adamw", "select": "last", "warmup_epochs": 0.0, "ema_decay": None}
        return settings.model_copy(update={"epochs": self.epochs, "lr": self.lr, "calibrate": False, **plain})

    def identity(self) -> Mapping[str, object]:
        """Return the taps, and how many factors there are for each channel."""
        return {"places": sorted(self.places.items()), "rate": self.rate}

    def _run_with_reconstruction(self, name: str, images: Tensor) -> Tensor:
        index, tap = self.places[name]
        teacher, autoencoder = self._networks[index], self.paraphrasers[name]
        layer = teacher.module.get_submodule(teacher.taps[tap])
        handle = layer.register_forward_hook(lambda _module, _inputs, original: autoencoder(original))
        try:
            logits: Tensor = teacher(images)
        finally:
            handle.remove()
        return logits


def count_factors(pair: Pair, rate: float) -> int:
    """Return how many channels an encoder keeps of the teacher's map."""
    return round(rate * pair.teacher_channels)


def _name_map(setting: Setting, pair: Pair) -> str:
    return f"{name_teacher(pair.teacher, len(setting.teachers))}_tap{pair.teacher_tap}"
