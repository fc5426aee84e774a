"""The whole judgement of one file: run on its own runtime, compared with its network, held to its promise, and explained.

How a file is run is the caller's matter: in a process of its own, on a device, or here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.recipe import GateSection
from compress.records import Gate, Precision
from exporters.verification import fp16_range as _fp16_range
from exporters.verification.causes import Images, input_causes
from exporters.verification.gate import gate
from exporters.verification.interface import Promise, broken, read_face
from exporters.verification.scores import Answer, contradictions

Run = Callable[[Any, int | None], Answer]
"""Images as the file takes them, and how many of them in a call (`None`: as the runner likes), to what the file answers."""

ALONE = 32
"""So many images are also fed one by one."""


def judge(
    path: Path,
    promise: Promise,
    run: Run,
    images: Images,
    *,
    reference: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    settings: GateSection,
    precision: Precision,
) -> Gate:
    """Judge a file.

    Args:
        path: The file; it is looked into in this process, after it was run.
        promise: What is promised of it.
        run: How it is run. What it raises is not caught.
        images: As the file takes them: normalised float32 [N, C, H, W], or uint8 [N, H, W, C].
        reference: Logits of the torch network, float32 [N, K].
        labels: True classes, [N].
        settings: What is accepted.
        precision: Of the file.

    Returns:
        The verdict with every reason for failure and, after one by the logits, what else the file would have to be fed.

    Raises:
        CompressError: The file is damaged, or there is nothing to compare with.
    """
    answer = run(images, promise.batch_size)
    alone = run(images[:ALONE], 1) if promise.batch_size is None else None
    logits, one_by_one = answer.logits, None if alone is None else alone.logits
    verdict = gate(reference, logits, labels, settings=settings, precision=precision, alone=one_by_one)
    if verdict.status == "failed" and np.isfinite(logits).all() and logits.shape == reference.shape:
        causes = input_causes(
            lambda altered: run(altered, promise.batch_size).logits, reference, images, promise.preprocess, precision=precision
        )
        verdict = accused(verdict, (f"likely cause: {cause}" for cause in causes))
    if promise.gives_class:
        verdict = accused(verdict, contradictions(answer, alone, precision=precision))
    return inspected(verdict, path, promise, images, precision=precision)


def inspected(verdict: Gate, path: Path, promise: Promise, images: Images, *, precision: Precision) -> Gate:
    """Return the verdict with what logits do not show: activations that fp16 cannot hold, and promises that are not kept.

    Args:
        verdict: By the logits.
        path: The file; it is opened in this process, after it was run.
        promise: What is promised of it.
        images: As the file takes them.
        precision: Of the file.

    Raises:
        CompressError: The file is damaged.
    """
    if precision == "fp16" and verdict.agreement_percent is not None:
        reason, note = _fp16_range.look(path, images, promise.batch_size)
        notes = "; ".join(filter(None, [verdict.note, note]))
        verdict = accused(verdict.model_copy(update={"note": notes}), filter(None, [reason]))
    face = read_face(path)
    return verdict if face is None else accused(verdict, broken(face, promise))


def accused(verdict: Gate, complaints: Iterable[str]) -> Gate:
    """Return a verdict with further reasons for failure."""
    reasons = [verdict.reason, *complaints] if verdict.reason else [*complaints]
    return verdict.model_copy(update={"status": "failed", "reason": "; ".join(reasons)}) if reasons else verdict
