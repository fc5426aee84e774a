"""Verdict on one file: apply the rule to what it gave, in calls of many sizes, and to what it says of itself; name causes.

`compress run` and `compress verify` call `judge`; the caller decides where the file runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError, Interrupted, Unreachable, Unwritable
from compress.input_probes import Images
from compress.recipe import GateSection
from compress.records import Gate, Precision, Preprocess
from compress.tasks import CLASSIFICATION, Task
from exporters.verification.causes import find_input_causes
from exporters.verification.fp16_range import check_fp16_range
from exporters.verification.gate import gate, make_limits
from exporters.verification.interface import ExpectedInterface, find_violations, read_interface
from exporters.verification.rule import (
    FileOutputs,
    Limits,
    Outputs,
    Recorded,
    choose_batch_sizes,
    find_batch_faults,
    find_score_errors,
    plan_calls,
)
from exporters.verification.task_gate import is_near_bound

Run = Callable[[Any, Sequence[tuple[int, int]] | None], FileOutputs]
"""From images as the file takes them, and calls as first image and number of images, to the outputs of these calls one behind
the other; without calls, to the outputs of all images in calls of the usual size."""
UNREAD = "its precision and metadata cannot be read from a file of this format, so the manifest is believed"


def judge(
    path: Path,
    expected: ExpectedInterface,
    outputs: FileOutputs,
    run: Run,
    images: Images,
    *,
    reference: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    settings: GateSection,
    precision: Precision,
    original: NDArray[np.float32] | None = None,
    recorded: Recorded | None = None,
    task: Task = CLASSIFICATION,
) -> Gate:
    """Judge a file.

    Args:
        path: The file; it is opened in this process, after it was run.
        expected: What it must take and give.
        outputs: Of the file for all N images that have labels.
        run: Runs it further. What it raises is not caught.
        images: The first of these images as the file takes them: normalised float32 [M, C, H, W], or uint8 [M, H, W, C].
        reference: Logits of the torch network, float32 [N, K, ...].
        labels: As the task has them, [N, ...].
        settings: Bounds of the gate.
        precision: By the manifest or recipe; the file is judged by that of its weights.
        original: Logits of the torch network before it was adapted to int8, float32 [N, K]; see `gate`.
        recorded: Differences of the file on these images when it was proved, which bound it from then on.
        task: What the network is for.

    Returns:
        The verdict with every reason for failure and, if the logits fail, the altered inputs with which they would pass.

    Raises:
        CompressError: The file is damaged, or there is nothing to compare with.
    """
    found, logits = read_interface(path), outputs.logits
    own: Precision = precision if found is None else found.precision  # type: ignore[assignment]  # RANKS holds no others
    limits = make_limits(settings, own, recorded, is_dense=task.is_dense, boxes=task.boxes)
    verdict = gate(reference, logits, labels, settings=settings, precision=own, original=original, recorded=recorded, task=task)
    comparable = logits.shape == reference.shape and logits.dtype == np.float32
    if comparable and expected.batch_size is None:
        verdict = add_failures(verdict, _try_batches(outputs, run, images, limits, gives_class=expected.gives_class))
    if comparable and np.isfinite(logits).all():
        verdict = try_other_inputs(
            verdict, run, images, reference=reference, preprocess=expected.preprocess, precision=own
        )  # fmt: skip
    if expected.gives_class:
        verdict = add_failures(verdict, find_score_errors(outputs, precision=own))
    verdict = check_range(verdict, path, expected, images, precision=own)
    if found is None:
        return verdict.model_copy(update={"note": "; ".join(filter(None, [verdict.note, UNREAD]))})
    return add_failures(verdict, find_violations(found, expected, precision))


def _try_batches(outputs: FileOutputs, run: Run, images: Images, limits: Limits, *, gives_class: bool) -> list[str]:
    """Return how outputs depend on the number of images in a call."""
    sizes = choose_batch_sizes(images[0].nbytes)
    shown = images[: max(sizes)]
    called = run(shown, plan_calls(len(shown), sizes))
    return [*find_batch_faults(outputs, called, sizes, limits, shown=len(shown), gives_class=gives_class)]


def _flatten(outputs: FileOutputs) -> FileOutputs:
    """Return outputs with the logits of an image in a row, [N, K, ...] -> [N, K·...]."""
    logits = outputs.logits
    return outputs if logits.ndim == 2 else Outputs(logits.reshape(len(logits), -1), outputs.further)


def try_other_inputs(
    verdict: Gate, run: Run, images: Images, *, reference: NDArray[np.float32], preprocess: Preprocess, precision: Precision
) -> Gate:
    """Add to the verdict on a file that failed, or nearly did, the altered inputs with which it gives the network's logits.

    Args:
        verdict: By the logits.
        run: Runs the file further.
        images: The first images as the file takes them: normalised float32 [M, C, H, W], or uint8 [M, H, W, C].
        reference: Logits of the network, float32 [N, K, ...].
        preprocess: How the images were normalised.
        precision: Of the file.
    """
    if verdict.status != "failed" and not is_near_bound(verdict, precision):
        return verdict
    wanted = reference[: len(images)]
    causes = find_input_causes(
        lambda altered: _flatten(run(altered, None)).logits, wanted.reshape(len(wanted), -1), images, preprocess,
        precision=precision,
    )  # fmt: skip
    return add_failures(verdict, [f"likely cause: {cause}" for cause in causes])


def check_range(verdict: Gate, path: Path, expected: ExpectedInterface, images: Images, *, precision: Precision) -> Gate:
    """Add to a verdict what logits do not show: activations beyond fp16.

    Args:
        verdict: By the logits.
        path: The file; it is opened in this process.
        expected: What it must take and give.
        images: As the file takes them: normalised float32 [M, C, H, W], or uint8 [M, H, W, C].
        precision: Of its weights.

    Raises:
        CompressError: The file is damaged.
    """
    if precision != "fp16" or verdict.agreement_percent is None:
        return verdict
    reason, note = check_fp16_range(path, images, expected.batch_size)
    notes = "; ".join(filter(None, [verdict.note, note]))
    return add_failures(verdict.model_copy(update={"note": notes}), filter(None, [reason]))


def add_failures(verdict: Gate, failures: Iterable[str]) -> Gate:
    """Add reasons for failure to a verdict; without any it stays as it is."""
    reasons = [verdict.reason, *failures] if verdict.reason else [*failures]
    return verdict.model_copy(update={"status": "failed", "reason": "; ".join(reasons)}) if reasons else verdict


def explain_unusable(error: CompressError, runtime: str) -> Gate:
    """Return the verdict on a file that could not be run: it failed, or, where it is no fault of its own, is not judged.

    Args:
        error: What the runner said.
        runtime: The runtime.

    Raises:
        Interrupted: The user stopped.
        Unwritable: The disk is full.
    """
    if isinstance(error, (Interrupted, Unwritable)):
        raise error
    if isinstance(error, Unreachable):  # memory ran out, a package is missing
        return Gate(status="skipped", reason=str(error), samples=0)
    return Gate(status="failed", reason=f"{runtime} cannot run it: {error}", samples=0)
