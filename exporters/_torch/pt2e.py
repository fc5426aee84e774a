"""Common part of the formats that torch lowers by itself (ExecuTorch, LiteRT): tracing, ends, and int8 by PT2E.

For int8 torchao observes the activations of a traced network on images and rounds weights and activations. ExecuTorch and
LiteRT each bring a quantizer of their own, which knows what their kernels can do in int8 and marks the operators accordingly;
all the rest is torchao's and the same for both. Weights get a scale for each output channel.

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
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.records import Precision
from compress.system import quiet
from compress.system.files import write_whole
from exporters._exporter import About, Quantization, check_option, name_options, parse_places, refuse_without_images
from exporters._torch.calibration_images import check_images
from exporters._torch.ends import Ends, choose_ends
from exporters._torch.trace import copy_network, trace

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

STATISTICS = ("default", "minmax")
"""`default` is the quantizer's own: a histogram, cut where the error of rounding is least. `minmax` represents the extremes."""
NO_SPARE_BIT = "XNNPACK widens int8 before it multiplies, so nothing saturates"
CHUNK = 32
"""Images observed in a call where the batch is dynamic: their activations are in memory at once."""
ANNOTATION = "quantization_annotation"
"""Key of a node under which torchao finds the mark of a quantizer."""


@contextmanager
def quieten_packages(where: str) -> Iterator[None]:
    """Silence the optional packages, which log and warn of each other, and say what to install where one is missing.

    Raises:
        Unreachable: A package is not installed.
    """
    try:
        with quiet.silence_tracer(), warnings.catch_warnings():
            # deprecations among torch, torchao and the lowering packages, and their notes that they are experimental
            warnings.simplefilter("ignore")
            yield
    except ModuleNotFoundError as error:
        raise Unreachable(plugins.explain_missing_package(where, error)) from error


class Pt2eExporter:
    """Base of the exporters of ExecuTorch and LiteRT.

    Args:
        precision: Precision of weights and arithmetic; int8 is made from images.
        batch_size: Images in every call; `None` takes any number.
        preprocess: Where images are normalised.
        postprocess: Where logits become class and score.
    """

    where: ClassVar[str]
    """The exporter, for messages."""
    suffix: ClassVar[str]
    """Of its files."""
    usual_batch_size: ClassVar[int | None]
    """The batch size that the name of a file does not mention."""
    fold: ClassVar[bool]
    """Whether the format takes weights as int8, or in float with a quantize operator behind them."""
    statistics: ClassVar[tuple[str, ...]] = STATISTICS
    no_spare_bit: ClassVar[str] = NO_SPARE_BIT

    def __init__(
        self,
        *,
        precision: Literal["fp32", "int8"],
        batch_size: int | None,
        preprocess: Literal["outside", "inside"],
        postprocess: Literal["outside", "inside"],
    ) -> None:
        check_option(self.where, "precision", precision, ("fp32", "int8"))
        self.precision: Precision = precision
        self.takes_pixels, self.gives_class = parse_places(self.where, preprocess, postprocess)
        self.batch_size = batch_size

    def lower(self, graph: nn.Module, shape: tuple[int, ...], name: str, carried: Ends) -> bytes:
        """Convert a traced network to the content of a file.

        Args:
            graph: Maps images [batch, channels, height, width] to logits [batch, classes].
            shape: Of a normalised image, (C, H, W).
            name: Of the network, for messages.
            carried: Normalisation, class and score to put around it.

        Raises:
            CompressError: The format cannot hold this network.
        """
        raise NotImplementedError

    def make_quantizer(self, statistics: str) -> Any:
        """Make the format's own quantizer, for one of `STATISTICS`.

        Raises:
            NotImplementedError: The format has not said which.
        """
        raise NotImplementedError

    def name_file(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-PRECISION` with the suffix, and with options that are not the default in its name."""
        others = name_options(
            self.batch_size, usual=self.usual_batch_size, takes_pixels=self.takes_pixels, gives_class=self.gives_class
        )
        return folder / f"{stem}-{self.precision}{others}{self.suffix}"

    def list_parts(self, path: Path) -> tuple[Path, ...]:
        """Return the file itself."""
        return (path,)

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:
        """Write the network that maps images [B, C, H, W] to logits [B, K]; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
            Unreachable: As in the contract.
        """
        name = type(module).__name__
        refuse_without_images(self.precision, name)
        carried = self._choose_ends(about, example, name)
        program = trace(module, example, batch=self.batch_size)
        self._save(program.module(), tuple(example.shape[1:]), path, name, carried)

    def prepare_int8(
        self,
        module: nn.Module,
        example: Tensor,
        images: NDArray[np.float32],
        *,
        about: About | None = None,
    ) -> QuantizablePt2e:
        """Trace the network and keep the images [N, C, H, W] for calibration; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
        """
        name, shape = type(module).__name__, tuple(example.shape[1:])
        carried = self._choose_ends(about, example, name)
        return QuantizablePt2e(
            where=self.where,
            traced=trace_for_int8(module, example, images, self.batch_size),
            images=images,
            batch_size=self.batch_size,
            quantizer=self.make_quantizer,
            save=lambda graph, path: self._save(graph, shape, path, name, carried),
            fold=self.fold,
        )

    def _choose_ends(self, about: About | None, example: Tensor, name: str) -> Ends:
        where = f"export of {name}"
        return choose_ends(about, example, takes_pixels=self.takes_pixels, gives_class=self.gives_class, where=where)

    def _save(self, graph: nn.Module, shape: tuple[int, ...], path: Path, name: str, carried: Ends) -> None:
        with write_whole(path) as temporary, quieten_packages(self.where):  # lowering itself needs room on the disk
            temporary.write_bytes(self.lower(graph, shape, name, carried))


@dataclass(frozen=True)
class QuantizablePt2e:
    """A traced network with images on which its ranges are estimated, ready to be written in int8.

    Args:
        where: Of messages, for example `exporters/executorch`.
        traced: The network.
        images: Normalised, float32 [N, C, H, W].
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
        return tuple(dict.fromkeys(self.traced.layers.values()))

    @property
    def always_float(self) -> tuple[str, ...]:
        """None: every one of them can be quantized."""
        return ()

    def write(self, path: Path, quantization: Quantization) -> None:
        """Write the int8 file; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
            Unreachable: As in the contract.
        """
        self.save(self._quantize(quantization), path)

    def simulate(self, quantization: Quantization, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits of the graph that would be written, float32 [N, K]; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
        """
        import torch

        graph = self._quantize(quantization)
        with torch.no_grad():
            return np.concatenate([graph(batch).numpy() for batch in self._split_batches(images)])[: len(images)]

    def _check(self, quantization: Quantization) -> None:
        if quantization.statistics not in STATISTICS:
            hint = plugins.suggest_name(quantization.statistics, list(STATISTICS))
            raise CompressError(f"{self.where}: there are no statistics {quantization.statistics!r}; {hint}")
        if quantization.saturation_fix:
            raise CompressError(f"{self.where}: the saturation fix does not apply: {NO_SPARE_BIT}; leave it out")
        for name in quantization.keep:
            if name not in self.layers:
                hint = plugins.suggest_name(name, list(self.layers))
                raise CompressError(f"{self.where}: keep: the network has no layer {name!r}; {hint}")

    def _quantize(self, quantization: Quantization) -> GraphModule:
        """Return the graph with quantize and dequantize operators around the operators that run in int8."""
        self._check(quantization)
        kept = {node for node, layer in self.traced.layers.items() if layer in quantization.keep}
        with quieten_packages(self.where):
            return self._convert(quantization.statistics, kept)

    def _convert(self, statistics: str, kept: Collection[str]) -> GraphModule:
        import torch
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        prepared = prepare_pt2e(copy.deepcopy(self.traced.graph), _KeepingQuantizer(self.quantizer(statistics), kept))
        with torch.no_grad():
            for batch in self._split_batches(self.images):
                prepared(batch)
        graph: GraphModule = convert_pt2e(prepared, fold_quantize=self.fold)
        return graph

    def _split_batches(self, images: NDArray[np.float32]) -> Iterator[Tensor]:
        """Yield images in batches that the graph takes; a last one that must be full is filled up with the first images."""
        import torch

        count, size = len(images), self.batch_size or CHUNK
        for start in range(0, count, size):
            stop = start + size if self.batch_size is not None else min(start + size, count)
            yield torch.from_numpy(images[np.arange(start, stop) % count])


class _KeepingQuantizer:
    """A quantizer that leaves some layers alone: it marks these itself, for no operator is marked twice.

    Args:
        quantizer: The format's.
        kept: Nodes that stay in floating point.
    """

    def __init__(self, quantizer: Any, kept: Collection[str]) -> None:
        self._quantizer, self._kept = quantizer, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._quantizer, name)

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark every operator that shall be quantized."""
        from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

        for node in model.graph.nodes:
            if node.name in self._kept:
                node.meta[ANNOTATION] = QuantizationAnnotation(_annotated=True)
        marked: GraphModule = self._quantizer.annotate(model)
        return marked


@dataclass(frozen=True)
class Traced:
    """A network as a graph of operators that remember, for quantizers, which call of the source made them."""

    graph: GraphModule
    layers: dict[str, str]
    """Layers by node: the user's module that holds the weights, for each node that multiplies by weights."""


def trace_for_int8(module: nn.Module, example: Tensor, images: NDArray[np.float32], batch_size: int | None) -> Traced:
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

    trace(module, example, batch=batch_size)  # for its clear errors
    check_images(images, tuple(example.shape[1:]), f"export of {type(module).__name__}")
    zeros = torch.zeros(batch_size or 2, *example.shape[1:])
    network = copy_network(module, zeros.shape)
    dynamic = None if batch_size is not None else ({0: torch.export.Dim("batch")},)
    with quiet.silence_tracer():
        graph: Any = torch.export.export(network, (zeros,), dynamic_shapes=dynamic, strict=False).module()
    _drop_dropout(graph)
    return Traced(graph, find_weighted_nodes(graph))


def _drop_dropout(graph: Any) -> None:
    """Remove dropout, which does nothing in evaluation.

    Quantizers do not know dropout, so the layer behind it would get a range of its own; litert-torch 0.10 then loses the step
    between the two ranges, and the layer's bias is off by their ratio.
    """
    import torch

    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.dropout.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()


def find_weighted_nodes(graph: Any) -> dict[str, str]:
    """Find the nodes that multiply by weights, from input to output, each with the user's module that holds these."""
    import torch

    aten = torch.ops.aten
    targets = {aten.conv1d.default, aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default}
    return {
        node.name: str(node.args[1].target).rpartition(".")[0]
        for node in graph.graph.nodes
        if node.op == "call_function" and node.target in targets and node.args[1].op == "get_attr"
    }


def choose_observers(config: Any, statistics: str) -> Any:
    """Return a quantizer's configuration with the observers of activations that belong to the statistics."""
    from torchao.quantization.pt2e.observer import MinMaxObserver

    if statistics == "default":
        return config
    # the quantizers' own smallest scale
    activation = replace(config.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12))
    return replace(config, input_activation=activation, output_activation=activation)


def trace_bounded(graph: nn.Module, example: Tensor, *, batch_size: int | None, largest: int) -> ExportedProgram:
    """Trace a graph once more, with an upper bound of the batch.

    It is traced with that many images: whenever torch 2.13 looks at a convolution of fewer than 16 to choose its own kernel, it
    bounds a dynamic batch by 15, silently.

    Args:
        graph: A traced network.
        example: An input of `batch_size` or `largest` images: float32 [B, C, H, W], or uint8 [B, H, W, C].
        batch_size: Images in every call; `None` leaves 1 to `largest`.
        largest: Upper bound of the images in a call.
    """
    import torch

    dynamic = None if batch_size is not None else ({0: torch.export.Dim("batch", min=1, max=largest)},)
    program = torch.export.export(graph, (example,), dynamic_shapes=dynamic, strict=False)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    return program
