"""Load a finished run for further files: its student, and the teachers that can adapt it to int8.

A teacher that was trained lies in the run's folder, one that was given where the user keeps it. Stages that prepared the
method, such as the heads of a cohort, are found in the cache by their keys. Nothing of this is trained again here; where
something is missing, a message says what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from compress import plugins, records
from compress.errors import CompressError, Interrupted, Unreachable, Unwritable
from compress.freezing import freeze_all_but
from compress.methods import Method
from compress.models import Network
from compress.plan.names import name_baselines, name_methods
from compress.quantization.candidate import Unavailable
from compress.recipe import TeacherSection
from compress.recipe.weights import is_remote
from compress.records import Report, StageResult
from compress.records.training import METRICS, WEIGHTS
from compress.run.build import build_method, build_network, load_given_teacher
from compress.run.context import Run, Trained
from compress.run.teachers import obtain_teacher
from compress.system.files import resolve_path
from compress.text import name_teacher
from compress.training import checkpoint

STUDENT = "student"


def use_shipped_seed(run: Run) -> Run:
    """Return the run with the seed of the student that was shipped; with several seeds it need not be the recipe's."""
    path = run.folder / "report.json"
    scores = records.read(path, Report).scores if path.is_file() else ()
    seeds = [each.seeds[0].seed for each in scores if each.network == "student"]
    return replace(run, seed=seeds[0]) if seeds else run


def make_student_of(run: Run, name: str) -> Run:
    """Return the run with a baseline in the place of its student, so that it can be shipped like one.

    Args:
        run: Run context.
        name: `student`, or the name of a baseline in the report.

    Raises:
        CompressError: No network of the run has this name.
    """
    names = name_baselines(run.recipe.baselines)
    if name == STUDENT:
        return run
    if name not in names:
        raise CompressError(f"--student {name}: the run did not train it; {plugins.suggest_name(name, [STUDENT, *names])}")
    return replace(run, recipe=run.recipe.model_copy(update={"method": run.recipe.baselines[names.index(name)]}))


def load_student(run: Run, name: str = STUDENT) -> Trained:
    """Return the student of a finished run, also where the file of a given teacher is no longer there.

    Args:
        run: Run context; for a baseline as `make_student_of` returns it.
        name: Of the student in the run.

    Raises:
        Unreachable: The run has not trained its student, or a teacher is missing that is part of what is shipped.
        CompressError: The weights are not those of the recipe's networks, or were changed.
    """
    try:
        return _restore_student(run, name, [_load_network(run, each, section) for each, section in _list_teachers(run)])[1]
    except Unreachable as error:
        gone = [
            section
            for section in run.recipe.teacher
            if section.is_given
            and section.weights
            and not is_remote(section.weights)
            and not resolve_path(run.base, section.weights).exists()
        ]
        if not gone:
            raise
        method, student = _restore_student(
            run, name, [build_network(run, section, each) for each, section in _list_teachers(run)]
        )
        if not _holds(method.product(), method.deployable()):
            raise
        run.events.say(f"the student is taken as it was shipped; {error}")
        return student


def _restore_student(run: Run, name: str, teachers: Sequence[Network]) -> tuple[Method, Trained]:
    """Return the student of a finished run from its own folder, with the method on these teachers that holds it.

    Raises:
        Unreachable: The run has not trained its student.
        CompressError: The weights are not those of the recipe's networks, or were changed.
    """
    folder, method = run.folder / name, build_method(run, run.recipe.method, teachers)
    result = records.read(folder / METRICS, StageResult)
    checkpoint.load_weights(method.product(), folder / WEIGHTS, sha256=result.files[WEIGHTS])
    freeze_all_but(method, ())
    return method, Trained(name, name_methods(run.recipe.method), method.deployable(), (result,), result.key, folder)


def _holds(product: nn.Module, deployable: nn.Module) -> bool:
    """Return whether everything that is shipped was loaded with the product."""
    loaded = {tensor.data_ptr() for tensor in product.state_dict().values()}
    return loaded.issuperset(tensor.data_ptr() for tensor in deployable.state_dict().values())


def load_teachers(run: Run) -> tuple[Trained, ...] | Unavailable:
    """Return the teachers of a finished run, or why its student cannot be trained further.

    Raises:
        Interrupted: The user stopped.
        Unwritable: The disk is full or a folder cannot be written.
    """
    try:
        found = tuple(_load_teacher(run, index, name, section) for index, (name, section) in enumerate(_list_teachers(run)))
    except (Interrupted, Unwritable):
        raise
    except CompressError as error:
        return Unavailable(f"its teachers are needed again: {error}")
    lost = [stage.stage for stage in _find_preparatory_stages(run) if run.cache.find(stage.key, stage.stage) is None]
    if lost:
        return Unavailable(
            f"stage {lost[0]!r} of its method is needed again and is no longer in {run.cache.folder}; run the recipe again"
        )
    return found


def _list_teachers(run: Run) -> list[tuple[str, TeacherSection]]:
    count = len(run.recipe.teacher)
    return [(name_teacher(index, count), section) for index, section in enumerate(run.recipe.teacher)]


def _load_teacher(run: Run, index: int, name: str, section: TeacherSection) -> Trained:
    if section.is_given:
        return obtain_teacher(run, index, section)
    folder, network = run.folder / name, _load_network(run, name, section)
    result = records.read(folder / METRICS, StageResult)
    freeze_all_but(network, ())
    return Trained(name, result.method, network, (result,), result.key, folder)


def _load_network(run: Run, name: str, section: TeacherSection) -> Network:
    """Return the network of a teacher with its weights, which a method may look at when it is built."""
    if section.is_given:
        return load_given_teacher(run, section, name).network
    network = build_network(run, section, name)
    files = records.read(run.folder / name / METRICS, StageResult).files
    checkpoint.load_weights(network, run.folder / name / WEIGHTS, sha256=files[WEIGHTS])
    return network


def _find_preparatory_stages(run: Run) -> list[StageResult]:
    """Return the stages that prepared the student's method."""
    networks = ("student", *name_baselines(run.recipe.baselines))
    others = {*networks, *(name for name, _ in _list_teachers(run))}
    names = [path.parent.name for path in sorted(run.folder.glob(f"*/{METRICS}"))]
    own = [name for name in names if name not in others and not name.startswith(tuple(f"{each}-" for each in networks))]
    return [records.read(run.folder / name / METRICS, StageResult) for name in own]
