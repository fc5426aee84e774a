"""int8 by PT2E: torchao observes the activations of a traced network on images and rounds weights and activations.

ExecuTorch and LiteRT each bring a quantizer of their own, which knows what their kernels can do in int8 and marks the operators
accordingly; all the rest is torchao's and the same for both. Weights get a scale for each output channel.

The observers sit where operators are marked, and a layer that stays in floating point is not marked. So each file observes the
images anew: a few seconds, beside which lowering takes long.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.system import quiet as _quiet
from exporters._exporter import Quantisation
from exporters._torch.calibration_images import check_images
from exporters._torch.trace import trace

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

STATISTICS = ("default", "minmax")
"""`default` is the quantizer's own: a histogram, cut where the error of rounding is least. `minmax` represents the extremes."""
NO_SPARE_BIT = "XNNPACK widens int8 before it multiplies, so nothing saturates"
CHUNK = 32
"""Images observed in a call where the batch is dynamic: the activations of so many are in memory at once."""
ANNOTATION = "quantization_annotation"
"""Where torchao looks for what a quantizer marked."""


@contextmanager
def foreign(where: str) -> Iterator[None]:
    """Quieten the optional packages, which log and warn of each other, and say what to install where one is missing.

    Raises:
        Unreachable: A package is not installed.
    """
    try:
        with _quiet.tracer(), warnings.catch_warnings():
            # deprecations among torch, torchao and the lowering packages, and their notes that they are experimental
            warnings.simplefilter("ignore")
            yield
    except ModuleNotFoundError as error:
        raise Unreachable(plugins.missing_package(where, error)) from error


@dataclass(frozen=True)
class Pt2e:
    """A traced network with images on which its ranges are estimated, ready to be written in int8.

    Args:
        where: Of messages, for example `exporters/executorch`.
        traced: The network.
        images: float32 [N, C, H, W].
        batch_size: Images in every call; `None` where it is dynamic.
        quantizer: Makes the format's quantizer from the statistics.
        save: Writes a graph with quantize and dequantize operators.
        fold: Whether the format takes weights as int8, or in float with a quantize operator behind them.
    """

    where: str
    traced: Traced
    images: NDArray[np.float32]
    batch_size: int | None
    quantizer: Callable[[str], Any]
    save: Callable[[GraphModule, Path], None]
    fold: bool

    @property
    def layers(self) -> tuple[str, ...]:
        """The convolutions and linear layers, by the names of the user's modules."""
        return tuple(dict.fromkeys(self.traced.weighted.values()))

    def write(self, path: Path, quantisation: Quantisation) -> None:
        """Write the int8 file; see the contract in `_exporter.py`."""
        self.save(self._quantised(quantisation), path)

    def simulate(self, quantisation: Quantisation, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the graph says that would be written; see the contract in `_exporter.py`."""
        import torch

        graph = self._quantised(quantisation)
        with torch.no_grad():
            return np.concatenate([graph(batch).numpy() for batch in self._batches(images)])[: len(images)]

    def _check(self, quantisation: Quantisation) -> None:
        if quantisation.statistics not in STATISTICS:
            hint = plugins.suggestion(quantisation.statistics, list(STATISTICS))
            raise CompressError(f"{self.where}: there are no statistics {quantisation.statistics!r}; {hint}")
        if quantisation.saturation_fix:
            raise CompressError(f"{self.where}: the saturation fix does not apply: {NO_SPARE_BIT}; leave it out")
        for name in quantisation.keep:
            if name not in self.layers:
                hint = plugins.suggestion(name, list(self.layers))
                raise CompressError(f"{self.where}: keep: the network has no layer {name!r}; {hint}")

    def _quantised(self, quantisation: Quantisation) -> GraphModule:
        """Return the graph in which quantize and dequantize operators surround what runs in int8."""
        self._check(quantisation)
        kept = {node for node, layer in self.traced.weighted.items() if layer in quantisation.keep}
        with foreign(self.where):
            return self._converted(quantisation.statistics, kept)

    def _converted(self, statistics: str, kept: Collection[str]) -> GraphModule:
        import torch
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        prepared = prepare_pt2e(copy.deepcopy(self.traced.graph), _Keeping(self.quantizer(statistics), kept))
        with torch.no_grad():
            for batch in self._batches(self.images):
                prepared(batch)
        graph: GraphModule = convert_pt2e(prepared, fold_quantize=self.fold)
        return graph

    def _batches(self, images: NDArray[np.float32]) -> Iterator[Tensor]:
        """Yield images in batches that the graph takes; a last one that must be full is filled up with the first images."""
        import torch

        count, size = len(images), self.batch_size or CHUNK
        for start in range(0, count, size):
            stop = start + size if self.batch_size is not None else min(start + size, count)
            yield torch.from_numpy(images[np.arange(start, stop) % count])


class _Keeping:
    """A quantizer that leaves some layers alone: what is marked already, it does not mark again.

    Args:
        quantizer: The format's.
        kept: Nodes that stay in floating point.
    """

    def __init__(self, quantizer: Any, kept: Collection[str]) -> None:
        self._quantizer, self._kept = quantizer, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._quantizer, name)

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark every operator that shall be quantised."""
        from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

        for node in model.graph.nodes:
            if node.name in self._kept:
                node.meta[ANNOTATION] = QuantizationAnnotation(_annotated=True)
        marked: GraphModule = self._quantizer.annotate(model)
        return marked


@dataclass(frozen=True)
class Traced:
    """A network as a graph of operators, with what quantizers ask of it: which call of the source made each."""

    graph: GraphModule
    weighted: dict[str, str]
    """Names of the nodes that multiply by weights, each with the user's module that holds these."""


def traced(module: nn.Module, example: Tensor, images: NDArray[np.float32], batch_size: int | None) -> Traced:
    """Trace a network for quantization.

    Args:
        module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
        example: One image, [1, channels, height, width]; only its shape is used.
        images: Normalised images, float32 [N, C, H, W].
        batch_size: Images in every call; `None` leaves it dynamic.

    Raises:
        CompressError: The network cannot be traced, or ranges cannot be estimated on the images.
    """
    import torch

    trace(module, example, batch=batch_size)  # what is wrong with the network is said here
    check_images(images, tuple(example.shape[1:]), f"export of {type(module).__name__}")
    network = copy.deepcopy(module).eval().requires_grad_(requires_grad=False)
    network.to("cpu", torch.float32).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # missing in torch
    zeros = torch.zeros(batch_size or 2, *example.shape[1:])
    dynamic = None if batch_size is not None else ({0: torch.export.Dim("batch")},)
    with _quiet.tracer():
        graph: Any = torch.export.export(network, (zeros,), dynamic_shapes=dynamic, strict=False).module()
    _drop_dropout(graph)
    return Traced(graph, weighted(graph))


def _drop_dropout(graph: Any) -> None:
    """Take out what does nothing in evaluation.

    Quantizers do not know dropout, so the layer behind it would get a range of its own; litert-torch 0.10 then loses the step
    between the two ranges, and the layer's bias is off by their ratio.
    """
    import torch

    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.dropout.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()


def weighted(graph: Any) -> dict[str, str]:
    """Return the nodes that multiply by weights, each with the user's module that holds these, from input to output."""
    import torch

    aten = torch.ops.aten
    targets = {aten.conv1d.default, aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default}
    return {
        node.name: str(node.args[1].target).rpartition(".")[0]
        for node in graph.graph.nodes
        if node.op == "call_function" and node.target in targets and node.args[1].op == "get_attr"
    }


def with_statistics(config: Any, statistics: str) -> Any:
    """Return a quantizer's configuration in which activations are observed as the statistics say."""
    from torchao.quantization.pt2e.observer import MinMaxObserver

    if statistics == "default":
        return config
    # the quantizers' own smallest scale
    activation = replace(config.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12))
    return replace(config, input_activation=activation, output_activation=activation)


def bounded(graph: nn.Module, example: Tensor, *, batch_size: int | None, largest: int) -> ExportedProgram:
    """Trace a graph once more, with a largest batch.

    It is traced with that many images: whenever torch 2.13 looks at a convolution of fewer than 16 to choose its own kernel, it
    bounds a dynamic batch by 15, without a word.

    Args:
        graph: A traced network.
        example: An input of `batch_size` or `largest` images.
        batch_size: Images in every call; `None` leaves 1 to `largest`.
        largest: Images in a call, at most.
    """
    import torch

    dynamic = None if batch_size is not None else ({0: torch.export.Dim("batch", min=1, max=largest)},)
    program = torch.export.export(graph, (example,), dynamic_shapes=dynamic, strict=False)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    return program
