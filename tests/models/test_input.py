"""A teacher that was made for other images or classes is the same wherever it is run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models import Adapted, InputFormat, Network, adapt_input, reorder_classes, run_normalised

RGB = InputFormat((0.4, 0.5, 0.6), (0.2, 0.3, 0.1), "rgb", (8, 8))
GRAY = InputFormat((0.45,), (0.25,), "gray", (8, 8))


class Small(nn.Module):
    def __init__(self, channels: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.conv, self.linear, self.scale = (
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.Linear(4, 5),
            1.0 if scale == 1.0 else scale ** torch.arange(5),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.linear(self.conv(images).relu().mean(dim=(2, 3)))
        return logits


def small(channels: int, scale: float = 1.0) -> Network:
    torch.manual_seed(0)
    return Network(Small(channels, scale=scale), taps=["conv"], classifier="linear").eval()


def prepare(pixels: np.ndarray, wanted: InputFormat) -> Tensor:
    """Return images [N, C, H, W] as a user would prepare them, from pixels uint8 [N, H, W, C]."""
    if wanted.channels == "gray" and pixels.shape[3] == 3:
        pixels = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
    if wanted.channels != "gray" and pixels.shape[3] == 1:
        pixels = np.repeat(pixels, 3, axis=3)
    if wanted.channels == "bgr":
        pixels = pixels[..., ::-1]
    values = (pixels / 255 - np.array(wanted.mean)) / np.array(wanted.std)
    return torch.from_numpy(values.transpose(0, 3, 1, 2)).float()


@pytest.mark.parametrize("given", [RGB, GRAY])
@pytest.mark.parametrize(
    "wanted",
    [
        InputFormat((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"),
        InputFormat((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), "bgr"),
        InputFormat((0.5,), (0.5,), "gray"),
    ],
)
def test_an_adapted_teacher_sees_what_it_was_trained_on(given: InputFormat, wanted: InputFormat) -> None:
    """From images of the data it gives what it gives for images that its own training would have prepared."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, len(given.mean)), np.uint8)
    network = small(len(wanted.mean))
    adapted = adapt_input(network, given=given, wanted=wanted)
    expected = network(prepare(pixels, wanted))
    torch.testing.assert_close(adapted(prepare(pixels, given)), expected, rtol=1e-4, atol=1e-5)
    outputs = adapted.outputs(prepare(pixels, given))
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-4, atol=1e-5)
    assert outputs.features[0].shape == (6, 4, 8, 8)
    torch.testing.assert_close(run_normalised(adapted, prepare(pixels, wanted)), expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_wrapped_where_nothing_differs() -> None:
    """A teacher that takes the data's images is left as it is."""
    network = small(3)
    assert adapt_input(network, given=RGB, wanted=RGB._replace(size=None)) is network


@pytest.mark.parametrize("size", [4, 16])
def test_images_are_resized(size: int) -> None:
    """The wanted size reaches the layers of the teacher."""
    adapted = adapt_input(small(3), given=RGB, wanted=RGB._replace(size=(size, size)))
    assert adapted.outputs(torch.rand(2, 3, 8, 8)).features[0].shape == (2, 4, size, size)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_classes_are_brought_into_the_order_of_the_data(wrapped: bool, scale: float) -> None:
    """Logits come in the data's order, of more classes only those; the classifier gives them, or says that it does not."""
    network, images, order = small(3, scale), torch.rand(6, 3, 8, 8), (4, 0, 2)
    expected = network(images)[:, list(order)].detach()
    around = Adapted(network, given=RGB, wanted=RGB) if wrapped else network
    reordered = reorder_classes(around, order, images[:1])
    torch.testing.assert_close(reordered(images), expected)
    torch.testing.assert_close(reordered.outputs(images).logits, expected)
    torch.testing.assert_close(copy.deepcopy(reordered)(images), expected)
    if scale == 1.0:
        assert reordered.classifier.out_features == 3
    else:
        with pytest.raises(CompressError, match="methods that use the classifier"):
            _ = reordered.classifier


def test_an_order_of_more_classes_than_there_are_is_refused() -> None:
    """The message has both numbers."""
    with pytest.raises(CompressError, match="gives 5 classes and its class order names 8"):
        reorder_classes(small(3), (0, 7), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("own", [(40, 64), (64, 40), (31, 47)])
def test_a_teacher_of_another_shape_keeps_its_own_geometry(own: tuple[int, int]) -> None:
    """The middle is what torchvision's resize and crop of tensors give; a filled image is whole, and the rest is the mean."""
    from torchvision.transforms.v2 import functional as v2

    images = torch.rand(2, 3, *own)
    given = InputFormat((0.5,) * 3, (0.25,) * 3, "rgb", own)
    seen = {}
    for geometry in ("center_crop", "letterbox"):
        wanted = InputFormat((0.4,) * 3, (0.2,) * 3, "rgb", (24, 24), geometry)
        adapted = adapt_input(Network(nn.Flatten(), taps=()), given=given, wanted=wanted)
        assert isinstance(adapted, Adapted)
        seen[geometry] = adapted.convert((images - 0.5) / 0.25)
        assert seen[geometry].shape == (2, 3, 24, 24)
    normalised = (images - 0.4) / 0.2
    expected = v2.center_crop(v2.resize(normalised, [24], antialias=True), [24, 24])
    torch.testing.assert_close(seen["center_crop"], expected, rtol=1e-4, atol=1e-4)
    filled = seen["letterbox"].abs().sum(dim=(0, 1)) == 0  # [24, 24]
    long, short = max(own), min(own)
    rows = round(24 * short / long)
    assert int((~filled).sum()) == 24 * rows
    inside = (
        seen["letterbox"][..., (24 - rows) // 2 : (24 - rows) // 2 + rows, :]
        if own[0] < own[1]
        else (seen["letterbox"][..., (24 - rows) // 2 : (24 - rows) // 2 + rows])
    )
    size = [rows, 24] if own[0] < own[1] else [24, rows]
    torch.testing.assert_close(inside, v2.resize(normalised, size, antialias=True), rtol=1e-4, atol=1e-4)
