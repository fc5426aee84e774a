"""Give the tensors of a foreign file the names of a network's own, by a mapping of the recipe.

Other packages have the same networks under other names. A mapping renames by regular expressions, each applied to every name in
turn; what then fits nothing is refused like any surplus tensor, and what has no name left is left out, such as the projection
head of a self-supervised network. `in_order` takes the file's tensors in their order: it is for
files of another implementation of the very network, whose layers come in the same order, and every shape is compared. Layers of
equal shape that stand in another order would not be noticed by that, but by the check of a given teacher's answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from compress.errors import CompressError
from compress.training.wrappings import COUNTER


def rename_tensors(
    content: Mapping[str, Any], own: Mapping[str, Tensor], weights_map: Literal["in_order"] | Mapping[str, str], path: Path
) -> dict[str, Any]:
    """Return the tensors [...] of a file by the names of a network.

    Args:
        content: What the file holds; of several dicts of tensors the largest is taken.
        own: The network's tensors by name.
        weights_map: Expressions with what replaces them, or `in_order`.
        path: Of the file, for messages.

    Raises:
        CompressError: An expression changes no name, two names become one, or the orders do not fit.
    """
    tensors = max(_list_dicts(content), key=len, default={})
    if weights_map == "in_order":
        return _rename_in_order(tensors, own, path)
    renamed = {name: name for name in tensors}
    for pattern, replacement in weights_map.items():
        changed = {name: re.sub(pattern, replacement, now) for name, now in renamed.items()}
        if changed == renamed:
            raise CompressError(
                f"{path}: weights_map: {pattern!r} changes no name; the first names are {', '.join(list(renamed.values())[:3])}"
            )
        renamed = changed
    renamed = {name: now for name, now in renamed.items() if now}
    if len(set(renamed.values())) < len(renamed):
        seen: set[str] = set()
        twice = next(name for name in renamed.values() if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise CompressError(f"{path}: weights_map: gives two tensors the name {twice!r}; make the expressions more exact")
    return {renamed[name]: tensor for name, tensor in tensors.items() if name in renamed}


def _list_dicts(content: Mapping[str, Any]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors by name of a dict and of those within."""
    yield {name: value for name, value in content.items() if isinstance(value, Tensor)}
    for value in content.values():
        if isinstance(value, Mapping):
            yield from _list_dicts(value)


def _rename_in_order(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Return tensors by the network's names in its order; batch norm's counters are left out on both sides."""
    theirs = [name for name in tensors if not name.endswith(COUNTER)]
    ours = [name for name in own if not name.endswith(COUNTER)]
    if len(theirs) != len(ours):
        raise CompressError(
            f"{path}: weights_map: in_order: the file has {len(theirs)} tensors and the network {len(ours)}; none may be left "
            "over: name another network, or map the names"
        )
    for number, (name, there) in enumerate(zip(ours, theirs, strict=True)):
        # the classifier comes last and may be for other classes, which is looked at later
        if own[name].shape != tensors[there].shape and (number < len(ours) - 2 or own[name].dim() != tensors[there].dim()):
            raise CompressError(
                f"{path}: weights_map: in_order: tensor {number + 1} is {there} {list(tensors[there].shape)}, and the "
                f"network's is {name} {list(own[name].shape)}; name another network, or map the names"
            )
    return {name: tensors[there] for name, there in zip(ours, theirs, strict=True)}
