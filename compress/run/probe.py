"""Fit the linear probe of a teacher as a stage of its own, or find it in the cache."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

from compress import records
from compress.errors import CompressError
from compress.fingerprint import describe_training, make_key
from compress.freezing import freeze_all_but
from compress.models import Network, count_macs, count_parameters
from compress.recipe import ProbeSection, TeacherSection
from compress.records import Analysis, StageResult
from compress.records.training import METRICS, WEIGHTS
from compress.run import cache
from compress.run.build import build_network, find_input_format, start_from_weights
from compress.run.context import Run, Trained
from compress.run.students import describe_model
from compress.run.weights import obtain_weights
from compress.system.files import hash_file
from compress.tasks import CLASSIFICATION
from compress.training import checkpoint, evaluate
from compress.training.linear_probe import Attempt, compute_features, fit_probe, set_classifier

METHOD = "linear probe"


def fit_teacher(run: Run, name: str, section: TeacherSection, probe: ProbeSection) -> Trained:
    """Return a teacher whose classifier is fitted to what its frozen layers make of the training images.

    Args:
        run: Run context.
        name: Of the teacher.
        section: Its section, with weights.
        probe: How the classifier is fitted.

    Raises:
        CompressError: The labels are of another task, the weights do not fit, or the network has no classifier to fit.
        Unreachable: The weights are not there.
    """
    if run.data.task.name != CLASSIFICATION.name:
        raise CompressError(
            f"{name}.probe: fits one class for each image, and the data is of {run.data.task.name}; give `train` instead"
        )
    network = build_network(run, section, name)
    note = start_from_weights(run, section, name, network)
    if note:
        run.events.say(f"{name}: {note}")
    freeze_all_but(network, ())
    key = make_key(
        model=describe_model(section), weights=hash_file(obtain_weights(run, section, name)), ema=section.ema, role=name,
        weights_map=section.weights_map, input=list(find_input_format(section, run.data.preprocess)), data=run.data.key,
        probe=probe.model_dump(mode="json"), device=run.device.type, engine=dict(describe_training()),
        fitted_by=version("scikit-learn"),
    )  # fmt: skip
    found = run.cache.find(key, name) is not None
    folder = run.cache.make(key, name, lambda folder: _fit(run, name, network, probe, key=key, folder=folder))
    result = records.read(folder / METRICS, StageResult).model_copy(update={"stage": name})
    checkpoint.load_weights(network, folder / WEIGHTS, sha256=result.files[WEIGHTS])
    freeze_all_but(network, ())
    cache.publish(folder, run.students / name)
    run.events.emit("stage", stage=name, seed=run.seed, key=key, found=found, seconds=result.seconds)
    known = "" if result.validation is None else f"{run.data.task.describe(result.validation)} on validation, "
    effort = "(found in the cache)" if found else f"in {result.seconds:.0f} s"
    run.events.say(f"{name}: {known}{result.analyses[0].note} {effort}")
    return Trained(name, METHOD, network, (result,), key, folder)


def _fit(run: Run, name: str, network: Network, probe: ProbeSection, *, key: str, folder: Path) -> None:
    """Fit the classifier of a network, and leave its weights and its record in the folder."""
    begun, data = time.monotonic(), run.data
    with run.events.task(f"{name}: linear probe", 3, kind="probe") as task:
        features = []
        for split in (data.train, data.validation):
            features.append(compute_features(network, run.batch_in_order(split), len(split.labels)))
            task.advance()
        chosen, tried = fit_probe(features[0], features[1], classes=len(data.classes), ridges=probe.ridges)
        set_classifier(network, chosen)
        task.advance()
    checkpoint.save_weights(folder / WEIGHTS, network, metadata={"stage": name, "key": key})
    logits = evaluate.compute_logits(network, run.batch_in_order(data.validation))
    result = StageResult(
        stage=name, key=key, method=METHOD, parameters=count_parameters(network),
        macs=count_macs(network, data.sample_image().to(run.device)),
        validation=evaluate.measure_accuracy(logits, data.validation.labels, data.task),
        analyses=(_tabulate(name, features[0].values.shape, chosen, tried),), seconds=time.monotonic() - begun,
        files={WEIGHTS: hash_file(folder / WEIGHTS)},
    )  # fmt: skip
    records.save(folder / METRICS, result)


def _tabulate(name: str, shape: tuple[int, ...], chosen: Attempt, tried: list[Attempt]) -> Analysis:
    """Return a table of the penalties that were tried."""
    weakest = chosen is tried[-1] and len(tried) > 1
    rows = tuple(
        (
            f"{each.ridge:g}", f"{each.top1_percent:.2f} %", f"{each.cross_entropy:.3f}",
            f"{each.steps}" if each.has_converged else f"{each.steps}, not converged", "kept" if each is chosen else "",
        )
        for each in tried
    )  # fmt: skip
    return Analysis(
        title=f"Linear probe of {name}",
        note=f"linear probe of {shape[1]} features of {shape[0]} images, ridge {chosen.ridge:g}"
        + (", the weakest that was tried: a weaker one may be better (probe.ridges)" if weakest else ""),
        columns=("ridge", "top-1 on validation", "cross-entropy", "steps of L-BFGS", ""),
        rows=rows,
    )
