"""A second implementation of what methods compute from feature maps, in NumPy float64."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.methods import Step

Array = NDArray[np.float64]


def close(term: Tensor, expected: float, name: str = "", *, rtol: float = 5e-5) -> None:
    """The methods compute in float32, over sums of up to a few thousand elements."""
    np.testing.assert_allclose(term.item(), expected, rtol=rtol, atol=1e-7, err_msg=name)


def doubles(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return cast("Array", shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def cross_entropy(step: Step) -> float:
    logs = log_softmax(doubles(step.student.logits))
    return float(-logs[np.arange(len(logs)), step.batch.labels.numpy()].mean())


def divergence(of_student: Array, of_teacher: Array, temperature: float) -> float:
    ours, theirs = log_softmax(of_student / temperature), log_softmax(of_teacher / temperature)
    return float(temperature**2 * (np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())


def average_pool(maps: Array, size: tuple[int, int]) -> Array:
    """Return [B, c, *size]; the sizes have whole ratios."""
    samples, channels, height, width = maps.shape
    blocks = maps.reshape(samples, channels, size[0], height // size[0], size[1], width // size[1])
    return cast("Array", blocks.mean(axis=(3, 5)))


def standardise_channels(maps: Array) -> Array:
    """Return maps [B, c, h, w] with mean 0 and deviation 1 in each channel, with what the authors of PKD add to the latter."""
    deviation = maps.std(axis=(0, 2, 3), keepdims=True, ddof=1)
    return cast("Array", (maps - maps.mean(axis=(0, 2, 3), keepdims=True)) / (deviation + 1e-6))


def convolution(maps: Array, layer: nn.Module) -> Array:
    """Return a convolution, plain or transposed, from its definition."""
    convolves = cast("Any", layer)
    kernel, (stride, _), (padding, _) = doubles(convolves.weight), convolves.stride, convolves.padding
    side = kernel.shape[2]
    if isinstance(layer, nn.ConvTranspose2d):  # the plain one of the spread map with the mirrored kernel
        spread = np.zeros((*maps.shape[:2], stride * (maps.shape[2] - 1) + 1, stride * (maps.shape[3] - 1) + 1))
        spread[:, :, ::stride, ::stride] = maps
        maps, kernel, stride, padding = spread, kernel.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1], 1, side - 1 - padding
    padded = np.pad(maps, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))[:, :, ::stride, ::stride]
    bias = doubles(convolves.bias) if convolves.bias is not None else np.zeros(len(kernel))
    return cast("Array", np.einsum("bihwkl,oikl->bohw", windows, kernel) + bias[:, None, None])


def batch_norm(maps: Array, layer: nn.Module) -> Array:
    """Return batch-norm with the statistics of the batch."""
    norm = cast("nn.BatchNorm2d", layer)
    mean, variance = maps.mean(axis=(0, 2, 3), keepdims=True), maps.var(axis=(0, 2, 3), keepdims=True)
    scaled = (maps - mean) / np.sqrt(variance + norm.eps)
    return cast("Array", scaled * doubles(norm.weight)[:, None, None] + doubles(norm.bias)[:, None, None])


def through(layers: nn.Module, maps: Array) -> Array:
    """Return what a chain of convolutions, batch-norms and ReLUs gives."""
    for layer in cast("nn.Sequential", layers):
        if isinstance(layer, nn.ReLU):
            maps = np.maximum(maps, 0)
        else:
            maps = batch_norm(maps, layer) if isinstance(layer, nn.BatchNorm2d) else convolution(maps, layer)
    return maps
