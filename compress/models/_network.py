"""Contract of a network: a module with named taps and a named classifier.

A `Network` wraps any `nn.Module` and edits nothing on it. `forward` returns logits only, so exporters trace the plain graph;
`outputs` also returns the feature map of each tap, read by hooks that live for that one call. A model family is a file with
one function per network, `resnet20(classes, channels, *, option=...) -> Network`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from compress.errors import CompressError
from compress.freezing import evaluating


class Outputs(NamedTuple):
    """Logits and feature maps of one forward pass."""

    logits: Tensor
    """[B, K], or dense [B, K, H, W]."""
    features: Sequence[Tensor]
    """One map per tap, shallow to deep, [B, c, h, w]."""


class Auxiliary(NamedTuple):
    """A second classifier, on the map of a tap: it is trained beside the first one, and is neither run nor exported later."""

    tap: str
    """Name of the tap."""
    head: str
    """Name of the submodule that makes logits [B, K, h, w] of its map [B, c, h, w]."""


class Network(nn.Module):
    """A module with named taps and a named classifier.

    Args:
        module: Maps images [B, C, H, W] to logits [B, K].
        taps: Names of submodules whose outputs are the feature maps, shallow to deep.
        classifier: Name of the last linear layer; methods that share or adapt the classifier need it.
        logits: Finds the logits in what the module gives, where that is no tensor: `lambda output: output.logits`.
        copies_input: Whether the module gets a copy of its images, which a module that changes them in place needs: others read
            the same images.

        auxiliary: A second classifier that is trained, too.

    Raises:
        CompressError: A tap, the classifier or the second one is not a submodule; the message lists near misses.

    Example:
        >>> import compress
        >>> from torch import nn
        >>> layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> compress.Network(layers, taps=["1"], classifier="4").classifier
        Linear(in_features=8, out_features=10, bias=True)
    """

    fixed: frozenset[str] = frozenset()
    """Parameters of the module, by name, that were frozen when it was given and are never trained."""
    knows_classes: bool = True
    """Whether the logits are of the classes of the data; of a teacher that was made for others, only maps mean something."""

    def __init__(
        self,
        module: nn.Module,
        *,
        taps: Sequence[str],
        classifier: str | None = None,
        logits: Callable[[Any], Tensor] | None = None,
        copies_input: bool = False,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        super().__init__()
        self.module, self.taps, self.classifier_name = module, tuple(taps), classifier
        self.find_logits = logits
        self.copies_input, self.auxiliary = copies_input, auxiliary
        known = dict(module.named_modules())
        for name in (*self.taps, *([classifier] if classifier is not None else []), *(auxiliary or ())):
            if name not in known:
                shown = ", ".join(key for key in known if key.count(".") < 2 and key)
                raise CompressError(f"{type(module).__name__} has no submodule {name!r}; it has: {shown}")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] for images [B, C, H, W]."""
        output = self.module(images.clone() if self.copies_input else images)
        logits: Tensor = output if self.find_logits is None or isinstance(output, Tensor) else self.find_logits(output)
        return logits

    def outputs(self, images: Tensor) -> Outputs:
        """Return logits [B, K] and the feature map [B, c, h, w] of every tap, for images [B, C, H, W].

        Raises:
            CompressError: A tap did not run exactly once, gave no tensor, or was overwritten in place by a later layer.
        """
        seen: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in self.taps}
        handles = []
        for name in self.taps:

            def keep(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                if not isinstance(output, Tensor):
                    raise CompressError(f"tap {name!r} gives a {type(output).__name__}, not a tensor; tap a layer inside it")
                seen[name].append((output, output._version))

            handles.append(self.module.get_submodule(name).register_forward_hook(keep))
        try:
            logits = self(images)
        finally:
            for handle in handles:
                handle.remove()
        features = []
        for name, maps in seen.items():
            if len(maps) != 1:
                raise CompressError(f"tap {name!r} ran {len(maps)} times in one forward pass; a tap must run once")
            tensor, version = maps[0]
            if tensor._version != version:
                raise CompressError(
                    f"tap {name!r} is overwritten in place by a later layer; tap that layer, or set inplace=False"
                )
            features.append(tensor)
        return Outputs(logits, tuple(features))

    def find_auxiliary(self) -> tuple[int, nn.Module] | None:
        """Return the place of the tap on whose map the auxiliary classifier stands, and that classifier, if there is one."""
        if self.auxiliary is None:
            return None
        return self.taps.index(self.auxiliary.tap), self.module.get_submodule(self.auxiliary.head)

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer.

        Raises:
            CompressError: The network was built without naming it, or it is not linear.
        """
        if self.classifier_name is None:
            raise CompressError("this network names no classifier; give Network(..., classifier='name')")
        layer = self.module.get_submodule(self.classifier_name)
        if not isinstance(layer, nn.Linear):
            raise CompressError(f"classifier {self.classifier_name!r} is a {type(layer).__name__}, not a linear layer")
        return layer


def find_shapes(network: Network, image: Tensor) -> Outputs:
    """Return the shapes of one pass as meta tensors, leaving batch-norm statistics and modes as they were.

    Args:
        network: Any network.
        image: One image, [1, C, H, W].

    Raises:
        CompressError: A tap's map has its channels last, so that height would be taken for channels without a word. Square
            images show it: of their maps the last two sizes are equal, or else the first two.
    """
    with evaluating(network):
        logits, features = network.outputs(image)
    for tap, feature in zip(network.taps, features, strict=True):
        sizes = feature.shape[1:]
        if image.shape[2] == image.shape[3] and len(sizes) == 3 and sizes[0] == sizes[1] != sizes[2]:
            raise CompressError(
                f"tap {tap!r} gives maps {list(feature.shape)}, which have their channels last; tap a layer that gives "
                "[B, c, h, w], for example one that permutes this layer's output"
            )
    return Outputs(logits.to("meta"), tuple(feature.to("meta") for feature in features))
