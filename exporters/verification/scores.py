"""Check of the class and the score that a file gives beside its logits (`postprocess: inside`): they must follow from these.

How good the logits are is judged elsewhere (`gate.py`). This check makes sure that an application that reads nothing but class
and score gets the same result as one that reads the logits. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.records import Precision
from exporters._exporter import CLASS, SCORE

BOUNDS: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 2e-2, "int8": 1e-4}
"""How far a score may be from the softmax of the logits, computed in float64.

A float32 softmax over K classes is off by some K roundings of 6e-8, so 1e-4 has room for a thousand classes. It is computed in
float32 in int8 files as well, and a score that was rounded to a step of 1/256 fails. Processors with fp16 or bf16 arithmetic
may compute it in that where the file is of that precision: a rounding is 5e-4 or 4e-3 there.
"""

KINDS: Mapping[str, tuple[str, ...]] = {CLASS: ("int64", "int32"), SCORE: ("float32",)}
"""Types by output. LiteRT gives its classes as int32; a type that can be read from the file must be int64 (`interface.py`)."""


class FileOutputs(Protocol):
    """Outputs of a file for N images."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """Of all classes, [N, K]."""

    @property
    def further(self) -> Mapping[str, NDArray[Any]]:
        """`class` and `score`, each [N], as far as the file gives them."""


def find_score_errors(outputs: FileOutputs, alone: FileOutputs | None, *, precision: Precision) -> Iterator[str]:
    """Yield each way in which class and score do not follow from the logits beside them.

    Args:
        outputs: Of a file that must give both: logits [N, K], class and score [N].
        alone: Of the same file for the first images, each fed in a call of its own.
        precision: Of the file.
    """
    together = [*_find_errors(outputs, precision)]
    yield from together
    if alone is not None and not together:
        yield from (f"fed one by one, {error}" for error in _find_errors(alone, precision))


def _find_errors(outputs: FileOutputs, precision: Precision) -> Iterator[str]:
    logits = outputs.logits.astype(np.float64)
    for name, kinds in KINDS.items():
        found = outputs.further.get(name)
        if found is None:
            yield f"it gives no output {name!r}, which postprocess: inside requires"
        elif found.dtype.name not in kinds or found.shape != logits.shape[:1]:
            yield f"its output {name!r} is {found.dtype} {list(found.shape)}, not {kinds[0]} {list(logits.shape[:1])}"
        elif logits.ndim == 2 and np.isfinite(logits).all():  # other logits are the gate's matter
            yield from (
                _find_wrong_classes(logits, found) if name == CLASS else _find_wrong_scores(logits, found, BOUNDS[precision])
            )


def _find_wrong_classes(logits: NDArray[np.float64], classes: NDArray[np.integer[Any]]) -> Iterator[str]:
    """Yield if a class is not that of a largest logit; where several are largest, any of them is right."""
    known = (classes >= 0) & (classes < logits.shape[1])
    chosen = logits[np.arange(len(logits)), np.where(known, classes, 0)]
    wrong = np.flatnonzero(~known | (chosen < logits.max(axis=1)))
    if len(wrong):
        first = int(wrong[0])
        best = int(logits[first].argmax())
        yield (
            f"its output {CLASS!r} is not that of the largest logit on {len(wrong)} of {len(logits)} images "
            f"(image {first}: {int(classes[first])}, not {best})"
        )


def _find_wrong_scores(logits: NDArray[np.float64], scores: NDArray[np.float32], bound: float) -> Iterator[str]:
    wanted = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)  # [N]
    wrong = np.flatnonzero(~(np.abs(scores - wanted) <= bound))
    if len(wrong):
        first = int(wrong[0])
        yield (
            f"its output {SCORE!r} is not the softmax of the largest logit on {len(wrong)} of {len(logits)} images "
            f"(image {first}: {scores[first]:.4g}, not {wanted[first]:.4g})"
        )
