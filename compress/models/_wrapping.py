"""Make a `Network` of any module, and of what a recipe names: taps and classifier are found by watching one pass.

A tap is the last map of each resolution, the outermost layer that gives it, and only what can be tapped: a map [B, c, h, w]
that comes once in a pass and that no later layer overwrites. Networks without maps, such as transformers, have no taps. The
classifier is the linear layer whose output is the logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from compress import plugins
from compress.errors import CompressError
from compress.forward_pass import changes, explain_failure
from compress.freezing import evaluating
from compress.models._network import Network

MOST_TAPS = 4
"""Of the resolutions that a network has, so many of the deepest are tapped."""


class _Seen(NamedTuple):
    """What a layer gave in one pass."""

    name: str
    output: Tensor
    version: int


def wrap_module(
    module: nn.Module,
    image: Tensor,
    *,
    name: str,
    taps: Sequence[str] | None = None,
    logits: Callable[[Any], Tensor] | None = None,
) -> Network:
    """Return a network around a module, which is left as it is; a `Network` comes back as it was given.

    Args:
        module: Maps images [B, C, H, W] to logits [B, K].
        image: One image [1, C, H, W], on the device of the module.
        name: What the module is called in messages.
        taps: Names of the tapped layers; default: those that are found.
        logits: As for `Network`.

    Raises:
        CompressError: It is no module, does not run on the image, or a tap is not there.
    """
    if isinstance(module, Network):
        return module
    if not isinstance(module, nn.Module):
        raise CompressError(f"{name}: is a {type(module).__name__}, not a torch.nn.Module; return the network itself")
    refuse_empty(name, module)
    if not all(hasattr(part, "training") for part in module.modules()):
        raise CompressError(
            f"{name}: is a frozen TorchScript module, or holds one, which has no mode that could be set; give it as it was "
            "before torch.jit.freeze, or the Python module"
        )
    compiled = getattr(module, "_orig_mod", None)
    module = compiled if isinstance(compiled, nn.Module) else module  # layers of a torch.compile'd one cannot be watched
    given = image.clone()
    seen, output = _watch_pass(module, given, name)
    output = output if logits is None or isinstance(output, Tensor) else logits(output)
    found = _find_taps(seen) if taps is None else taps
    return Network(
        module, taps=found, classifier=_find_classifier(module, seen, output), logits=logits,
        copies_input=changes(given, image),
    )  # fmt: skip


def refuse_empty(name: str, module: nn.Module) -> None:
    """Refuse a module whose parameters or buffers have shapes and hold no numbers.

    Raises:
        CompressError: It was made on torch's meta device, and its weights were never loaded.
    """
    empty = [key for key, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if empty:
        raise CompressError(
            f"{name}: holds no numbers in {', '.join(empty[:3])}{', …' if len(empty) > 3 else ''} (torch's meta device); load "
            "its weights first: module.to_empty(device='cpu'), then load_state_dict"
        )


def _watch_pass(module: nn.Module, image: Tensor, name: str) -> tuple[list[_Seen], Any]:
    """Return what each layer gave for an image [1, C, H, W], in the order in which they ended, and the output."""
    seen: list[_Seen] = []
    handles = [
        layer.register_forward_hook(
            lambda _layer, _inputs, output, layer_name=layer_name: seen.extend(
                [_Seen(layer_name, output, output._version)] if isinstance(output, Tensor) else []
            )
        )
        for layer_name, layer in module.named_modules()
        if layer_name and not isinstance(layer, torch.jit.ScriptModule)  # these take no hooks
    ]
    try:
        with evaluating(module):
            return seen, module(image)
    except Exception as error:  # the module is the user's, and may raise anything
        remedy = "give it images of the size and channels that it takes, or mend it"
        reason = explain_failure(name, module, error, remedy=remedy)
        raise CompressError(f"{name}: cannot take images {list(image.shape)}: {reason}") from error
    finally:
        for handle in handles:
            handle.remove()


def _find_taps(seen: Sequence[_Seen]) -> list[str]:
    """Return the names of the layers that give the last map of each resolution, shallow to deep.

    Of one resolution the outermost layers count: a block that halves the map still has the old one within.
    """
    names = [each.name for each in seen]
    last: dict[tuple[int, int], str] = {}
    for each in seen:
        if each.output.dim() != 4 or names.count(each.name) > 1 or each.output._version != each.version:
            continue
        channels, height, width = each.output.shape[1:]
        if min(height, width) == 1 or channels == height != width:
            continue  # pooled, or with the channels last
        if each.name.count(".") <= last.get((height, width), each.name).count("."):
            last[height, width] = each.name
    taps: list[tuple[int, str]] = []
    for (height, width), name in sorted(last.items(), key=lambda item: names.index(item[1])):
        if not taps or height * width < taps[-1][0]:  # else enlarged again
            taps.append((height * width, name))
    return [name for _, name in taps][-MOST_TAPS:]


def _find_classifier(module: nn.Module, seen: Sequence[_Seen], output: object) -> str | None:
    """Return the name of the linear layer that gives the logits [1, K]."""
    if isinstance(output, Tensor):
        for each in reversed(seen):
            if isinstance(module.get_submodule(each.name), nn.Linear) and _is_same(each.output, output):
                return each.name
    return None


def _is_same(one: Tensor, other: Tensor) -> bool:
    plain = all(each.layout == torch.strided and not each.is_meta for each in (one, other))
    return plain and one.shape == other.shape and torch.equal(one, other)


def build_model(name: str, classes: int, image: Tensor, options: Mapping[str, Any]) -> Network:
    """Return a network by its name in a recipe, with weights drawn from torch's generator.

    A function of others may return any module and take the number of classes, and that of channels, under any usual name.

    Args:
        name: Of a plug-in, or `module:function`.
        classes: Number of classes.
        image: One image [1, C, H, W], on the CPU.
        options: Of the plug-in.

    Raises:
        CompressError: There is no such network, the function fails, or what it returns does not fit image and classes.
        Unreachable: A package that it needs is not installed.
    """
    plugin, make = plugins.describe("models", name), plugins.load("models", name)
    channels = image.shape[1]
    if plugin.origin == "ours":
        ours: Network = make(classes, channels, **options)
        return ours
    where = f"models/{name} ({plugin.path})"
    sizes = {"classes": classes, "channels": channels}
    wanted = {argument: sizes[what] for argument, what in _find_sizes(make, where).items()}
    try:
        module = make(**{**wanted, **options})
    except CompressError:
        raise
    except Exception as error:
        given = ", ".join(f"{argument}={value!r}" for argument, value in {**wanted, **options}.items())
        raise CompressError(f"{where}: fails when called with {given}: {plugins.describe_failure(error)}; mend it") from error
    network = wrap_module(module, image, name=where)
    _check_logits(network, image, classes, where)
    return network


def _find_sizes(make: Any, where: str) -> Mapping[str, Literal["classes", "channels"]]:
    """Return which arguments of a function of others take the number of classes, and that of channels.

    Raises:
        CompressError: It is not called, or takes no number of classes.
    """
    if not callable(make):
        raise CompressError(f"{where}: is a {type(make).__name__}, not a function; name one that returns the network")
    parameters = inspect.signature(make).parameters.values()
    placed = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    found = plugins.find_sizes([each.name for each in parameters], placed=placed, takes_any=takes_any)
    if "classes" not in found.values():
        raise CompressError(
            f"{where}: takes {inspect.signature(make)}, and no number of classes; let it take (classes, channels)"
        )
    return found


def _check_logits(network: Network, image: Tensor, classes: int, where: str) -> None:
    """Refuse a network that does not give logits [1, K] of so many classes for an image [1, C, H, W]."""
    with evaluating(network):
        output: object = network(image)
    if not isinstance(output, Tensor):
        raise CompressError(
            f"{where}: gives a {type(output).__name__}; return compress.Network(module, taps=[...], logits=lambda output: ...)"
        )
    if output.shape != (1, classes):
        raise CompressError(f"{where}: gives {list(output.shape)} for one image; it must give logits [1, {classes}]")
