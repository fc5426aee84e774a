"""Verdict on one file: run it, apply the gate to its logits, compare its interface with the expected one, name likely causes.

The caller decides where the file runs: in a process of its own, on a device, or in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.input_probes import Images
from compress.recipe import GateSection
from compress.records import Gate, Precision
from exporters.verification.causes import find_input_causes
from exporters.verification.fp16_range import check_fp16_range
from exporters.verification.gate import gate
from exporters.verification.interface import ExpectedInterface, find_violations, read_interface
from exporters.verification.scores import FileOutputs, find_score_errors

Run = Callable[[Any, int | None], FileOutputs]
"""From images as the file takes them, and how many of them go into a call (`None`: any number), to the outputs of the file."""

ALONE = 32
"""Number of images that are also fed one by one."""


def judge(
    path: Path,
    expected: ExpectedInterface,
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
        path: The file; it is opened in this process, after it was run.
        expected: What it must take and give.
        run: Runs it. What it raises is not caught.
        images: As the file takes them: normalised float32 [N, C, H, W], or uint8 [N, H, W, C].
        reference: Logits of the torch network, float32 [N, K].
        labels: True classes, [N].
        settings: Bounds of the gate.
        precision: Of the file.

    Returns:
        The verdict with every reason for failure and, if the logits fail, the altered inputs with which they would pass.

    Raises:
        CompressError: The file is damaged, or there is nothing to compare with.
    """
    outputs = run(images, expected.batch_size)
    alone = run(images[:ALONE], 1) if expected.batch_size is None else None
    logits, one_by_one = outputs.logits, None if alone is None else alone.logits
    verdict = gate(reference, logits, labels, settings=settings, precision=precision, alone=one_by_one)
    if verdict.status == "failed" and np.isfinite(logits).all() and logits.shape == reference.shape:
        causes = find_input_causes(
            lambda altered: run(altered, expected.batch_size).logits,
            reference,
            images,
            expected.preprocess,
            precision=precision,
        )
        verdict = add_failures(verdict, (f"likely cause: {cause}" for cause in causes))
    if expected.gives_class:
        verdict = add_failures(verdict, find_score_errors(outputs, alone, precision=precision))
    return inspect_file(verdict, path, expected, images, precision=precision)


def inspect_file(verdict: Gate, path: Path, expected: ExpectedInterface, images: Images, *, precision: Precision) -> Gate:
    """Add to a verdict what logits do not show: activations beyond fp16, and a wrong interface.

    Args:
        verdict: By the logits.
        path: The file; it is opened in this process, after it was run.
        expected: What it must take and give.
        images: As the file takes them: normalised float32 [N, C, H, W], or uint8 [N, H, W, C].
        precision: Of the file.

    Raises:
        CompressError: The file is damaged.
    """
    if precision == "fp16" and verdict.agreement_percent is not None:
        reason, note = check_fp16_range(path, images, expected.batch_size)
        notes = "; ".join(filter(None, [verdict.note, note]))
        verdict = add_failures(verdict.model_copy(update={"note": notes}), filter(None, [reason]))
    found = read_interface(path)
    return verdict if found is None else add_failures(verdict, find_violations(found, expected))


def add_failures(verdict: Gate, failures: Iterable[str]) -> Gate:
    """Add reasons for failure to a verdict; without any it stays as it is."""
    reasons = [verdict.reason, *failures] if verdict.reason else [*failures]
    return verdict.model_copy(update={"status": "failed", "reason": "; ".join(reasons)}) if reasons else verdict
