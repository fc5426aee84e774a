"""The trained half of a run: teachers, and students by any set of methods, each stage found again in the cache.

`teacher` and `student` are the two moves; `compress.run.pipeline` calls them in order. What all stages share is in
`compress.run.context`, how one stage is found or trained in `compress.run.stage`.
"""

from __future__ import annotations

from collections.abc import Sequence

from compress import records
from compress.freezing import freeze_all_but
from compress.methods import Method, Setting
from compress.methods.supervised import Supervised
from compress.models import Network
from compress.plan.names import name_methods
from compress.recipe import MethodSection, ModelSection, TeacherSection
from compress.records import StageResult
from compress.records.training import METRICS, WEIGHTS
from compress.run import cache as stages
from compress.run import stage as staging
from compress.run.context import Run, Trained, assemble, build
from compress.system.files import sha256_of
from compress.teachers import store as targets
from compress.training import checkpoint, evaluate, preflight


def teacher(run: Run, index: int, section: TeacherSection) -> Trained:
    """Return a teacher: from the user's file, or trained on the labels.

    Raises:
        CompressError: Its weights do not fit, or it is not fit to teach.
        Unreachable: Its file is not there.
    """
    name = "teacher" if len(run.recipe.teacher) == 1 else f"teacher{index}"
    network = build(run, section, name)
    model = _model(section)
    if section.weights is not None:
        path = run.base / section.weights
        checkpoint.load_weights(network, path, sha256=section.sha256)
        key = stages.key(weights=sha256_of(path), model=model)
        trained = Trained(name, "given", network, (), key, None)
    else:
        settings = section.train or run.recipe.train
        method = Supervised(Setting(network, (), run.data.image(), len(run.data.classes)))
        reads = {"model": model, "role": name}
        trained = staging.train(run, name, method, settings, reads=reads, method_name="supervised")
    answers = evaluate.logits(trained.network, run.whole(run.data.validation))
    found = preflight.teacher(name, answers, run.labels(), run.data.classes)
    if trained.folder is None:
        run.events.say(f"{name}: {section.model} from {section.weights}, {staging.percent(found)} on validation")
    return trained


def student(run: Run, name: str, sections: Sequence[MethodSection], teachers: Sequence[Trained]) -> Trained:
    """Train the student with a set of methods, stage by stage.

    Raises:
        CompressError: The methods contradict each other, or training does not work.
        Paused: It is another student's turn.
        Interrupted: The user stopped; the state is saved.
    """
    networks = _networks(teachers)
    method = assemble(run, sections, networks)
    knowledge = [trained.key for trained in teachers]
    results = prepare(run, name, method, sections, networks=networks, knowledge=knowledge)
    start = run.recipe.student.weights
    needed = [] if all(section.name == "supervised" for section in sections) else knowledge
    inputs = {
        "teachers": needed,
        "prepared": [result.key for result in results],
        "model": _model(run.recipe.student),
        "weights": start and sha256_of(run.base / start),
        "method": [section.model_dump(mode="json") for section in sections],
        "methods": _sources(sections),
    }
    final = method.stages()[-1]
    others_read = run.readers > 1 and _asks_only(final, networks)
    last = staging.train(
        run, name, final, run.recipe.train, reads=inputs, method_name=name_methods(sections), shared=others_read
    )
    return last._replace(results=(*results, *last.results))


def in_common(run: Run, sections: Sequence[MethodSection], teachers: Sequence[Trained]) -> Method | None:
    """Return the stage that trains a student by these methods, as it is before training, if it asks no teacher but those given.

    What such teachers say is the same for all students of a recipe.

    Raises:
        CompressError: The methods contradict each other.
    """
    networks = _networks(teachers)
    final = assemble(run, sections, networks).stages()[-1]
    return final if _asks_only(final, networks) else None


def prepare(
    run: Run,
    name: str,
    method: Method,
    sections: Sequence[MethodSection],
    *,
    networks: Sequence[Network],
    knowledge: list[str],
) -> list[StageResult]:
    """Train or find all stages of a method but the last, and leave their weights in it.

    Args:
        run: Run context.
        name: What the student is called in the run.
        method: On the student, from `sections` and `networks`.
        sections: The methods in the recipe.
        networks: The teachers.
        knowledge: The teachers' keys.

    Raises:
        CompressError: Training does not work.
        Interrupted: The user stopped; the state is saved.
    """
    common = method if run.seed == run.recipe.seed else assemble(run.shared(), sections, networks)
    results: list[StageResult] = []
    before = [stage.stage for stage in method.stages()[:-1]]
    for index, stage in enumerate(method.stages()[:-1]):
        reads = {"teachers": knowledge, "stage": dict(stage.identity()), "method": targets.source(type(stage))}
        if _trains_student(stage):
            reads |= {"prepared": [result.key for result in results], "model": _model(run.recipe.student)}
        number = "" if before.count(stage.stage) == 1 else str(index)
        own_name = f"{stage.stage}{number}" if name == "student" else f"{name}-{stage.stage}{number}"
        shared = _belongs_to_teachers(stage, networks)
        where, trained = (run.shared(), common.stages()[index]) if shared else (run, stage)
        results += staging.train(
            where, own_name, trained, run.recipe.train, reads=reads, method_name=name_methods(sections)
        ).results
        if trained is not stage:
            stage.product().load_state_dict(trained.product().state_dict())
            freeze_all_but(stage, ())
    return results


def finished_student(run: Run) -> Trained:
    """Return the student of a finished run from its own folder, as it was shipped.

    Raises:
        Unreachable: The run has not trained its student.
        CompressError: The weights are not those of the recipe's networks, or were changed.
    """
    folder = run.folder / "student"
    result = records.read(folder / METRICS, StageResult)
    method = assemble(run, run.recipe.method, [_as_taught(run, index) for index in range(len(run.recipe.teacher))])
    checkpoint.load_weights(method.product(), folder / WEIGHTS, sha256=result.files[WEIGHTS])
    freeze_all_but(method, ())
    return Trained("student", name_methods(run.recipe.method), method.deployable(), (result,), result.key, folder)


def _as_taught(run: Run, index: int) -> Network:
    """Return a teacher of a finished run with its weights, which a method may look at when it is built."""
    section = run.recipe.teacher[index]
    name = "teacher" if len(run.recipe.teacher) == 1 else f"teacher{index}"
    network = build(run, section, name)
    path = run.base / section.weights if section.weights is not None else run.folder / name / WEIGHTS
    checkpoint.load_weights(network, path, sha256=section.sha256)
    return network


def _model(section: ModelSection) -> dict[str, object]:
    """Return what decides the shape of a network: its name, its options, and its source."""
    options = section.model_dump(mode="json", exclude={"weights", "sha256", "train"})
    return {**options, "source": stages.plugin("models", section.model)}


def _trains_student(stage: Method) -> bool:
    own = {id(parameter) for parameter in stage.student.parameters()}
    return any(id(parameter) in own for group in stage.phases().values() for parameter in group)


def _belongs_to_teachers(stage: Method, given: Sequence[Network]) -> bool:
    """Return whether a stage has no part in any student, so that all seeds have it in common."""
    return not _trains_student(stage) and _asks_only(stage, given)


def _networks(teachers: Sequence[Trained]) -> list[Network]:
    return [trained.network for trained in teachers if isinstance(trained.network, Network)]


def _asks_only(stage: Method, given: Sequence[Network]) -> bool:
    """Return whether no teacher of a stage was made on the way."""
    return all(any(own is network for network in given) for own in stage.teachers)


def _sources(sections: Sequence[MethodSection]) -> list[str]:
    return [stages.plugin("methods", section.name) for section in sections]
