"""Find a network's weights in the checkpoint of a training script, whatever they are wrapped in.

Scripts save a state dict bare or under a key (`state_dict`, `model`, `net`, ...), beside an optimizer, a schedule, averaged
weights and arguments; and torch.compile, DataParallel, Lightning, `AveragedModel` and users' own modules put prefixes before
the names of tensors. What decides is whether the names fit: of all state dicts in the file, with any prefix taken away that
makes its names those of the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

COUNTER = "num_batches_tracked"
"""Batch norm's counter, which torch did not save before 0.4.1 and inference never reads."""

_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Modules that torch's own wrappers put between a network and its layers, at any depth."""
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|shadow)([._]|$)|(^|[._])ema(model|net)|modelema", re.IGNORECASE)
_DEEPEST = 4
"""Dicts within dicts that are looked into."""


class StateDict(NamedTuple):
    """Tensors of a file whose names are those of the network, as far as they are."""

    where: tuple[str, ...]
    """Keys under which they lie in the file."""
    prefix: str
    """What stood before their names."""
    tensors: dict[str, Tensor]
    """By the network's names; those under no other name of the file are left out only where `fits`."""
    fits: bool
    """Whether the network finds all that it needs, in the right shapes."""
    is_averaged: bool

    @property
    def place(self) -> str:
        """Where they are, for people; empty for a bare file."""
        return ".".join([*self.where, *([self.prefix.removesuffix(".")] if self.prefix else [])])


def list_state_dicts(content: Mapping[Any, Any], own: Mapping[str, Tensor]) -> list[StateDict]:
    """Return every way in which the tensors of a file can be those of a network: those that fit if any does, else the nearest.

    Args:
        content: What the file holds.
        own: The network's tensors by name, [...] each.
    """
    found = [
        candidate
        for where, tensors, averaged in _walk(content, (), averaged="n_averaged" in content)
        for candidate in _match(where, tensors, own, averaged=averaged)
    ]
    fitting = [each for each in found if each.fits]
    if fitting:
        return _drop_repeated(fitting)
    return sorted(found, key=lambda each: -_count_fitting(each.tensors, own))[:1]


def _walk(
    content: Mapping[Any, Any], where: tuple[str, ...], *, averaged: bool
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor], bool]]:
    """Yield every dict that holds tensors by name, with its place and whether it holds averaged weights."""
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield where, tensors, averaged
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping) and len(where) < _DEEPEST:
            inner = averaged or bool(_AVERAGED.search(key)) or "n_averaged" in value
            yield from _walk(value, (*where, key), averaged=inner)


def _match(
    where: tuple[str, ...], tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], *, averaged: bool
) -> Iterator[StateDict]:
    """Yield the tensors under each prefix that could be the network's; of a bare file also those that fit under none."""
    plain = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    if len(plain) != len(tensors):  # two names became one
        plain = dict(tensors)
    for prefix in _list_prefixes(plain, own):
        inside = {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}
        whole = _restore_own_prefix(inside, own)
        needed = [name for name in own if not name.endswith(COUNTER)]
        fits = all(name in whole and whole[name].shape == own[name].shape for name in needed) and set(whole) <= set(own)
        yield StateDict(where, prefix, whole, fits, averaged or bool(_AVERAGED.search(prefix)))


def _list_prefixes(names: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Return what could stand before the network's names: nothing, or what stands before one of them."""
    probe = {name.rpartition(".")[2]: name for name in own}  # few names with other endings are enough to find a prefix
    wanted = {*probe.values(), *([_strip_own_prefix(next(iter(own)), own)] if own else [])}
    found = dict.fromkeys(
        name[: -len(each)] for name in names for each in wanted if name.endswith(f".{each}") and len(name) > len(each)
    )
    return ["", *found]


def _find_own_prefix(own: Mapping[str, Tensor]) -> str:
    """Return the module that all of a network's own tensors lie in, with its point, or nothing."""
    heads = {name.partition(".")[0] for name in own}
    return f"{heads.pop()}." if len(heads) == 1 and all("." in name for name in own) else ""


def _strip_own_prefix(name: str, own: Mapping[str, Tensor]) -> str:
    return name.removeprefix(_find_own_prefix(own))


def _restore_own_prefix(found: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the network's names where it lies in one module and the file holds that module's alone."""
    prefix = _find_own_prefix(own)
    if prefix and not any(name in own for name in found):
        return {prefix + name: value for name, value in found.items()}
    return found


def _count_fitting(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    """Return how many of a network's tensors are there in their shape, less those that it does not have."""
    return sum((name in own and value.shape == own[name].shape) or -1 for name, value in tensors.items())


def _drop_repeated(found: list[StateDict]) -> list[StateDict]:
    """Return state dicts of which no two of a kind hold the same numbers."""
    distinct: list[StateDict] = []
    for each in found:
        if not any(each.is_averaged == other.is_averaged and _is_equal(each.tensors, other.tensors) for other in distinct):
            distinct.append(each)
    return distinct


def _is_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    pairs = [(one[name], other[name]) for name in one if name in other]
    return all(a is b or (a.layout == b.layout == torch.strided and not a.is_meta and torch.equal(a, b)) for a, b in pairs)
