"""Train students by any set of methods, stage by stage; each stage is found again in the cache."""

from __future__ import annotations

from collections.abc import Sequence

from compress.fingerprint import hash_plugin
from compress.freezing import freeze_all_but, list_trained_parameters
from compress.methods import Method
from compress.models import Network
from compress.plan.names import name_methods
from compress.recipe import MethodSection, ModelSection
from compress.records import StageResult
from compress.run.build import build_method
from compress.run.context import Run, Trained
from compress.run.stage import train_stage
from compress.run.weights import obtain_weights
from compress.system.files import hash_file
from compress.teachers.identity import identify_class


def train_student(run: Run, name: str, sections: Sequence[MethodSection], teachers: Sequence[Trained]) -> Trained:
    """Train the student with a set of methods, stage by stage.

    Raises:
        CompressError: The methods contradict each other, or training does not work.
        Paused: The other students of a lockstep come next.
        Interrupted: The user stopped; the state is saved.
    """
    networks = _select_networks(teachers)
    method = build_method(run, sections, networks)
    knowledge = [trained.key for trained in teachers]
    results = train_preparatory_stages(run, name, method, sections, networks=networks, knowledge=knowledge)
    start = run.recipe.student
    needed = [] if all(section.name == "supervised" for section in sections) else knowledge
    inputs = {
        "teachers": needed,
        "prepared": [result.key for result in results],
        "model": describe_model(run.recipe.student),
        "weights": hash_file(obtain_weights(run, start, "student")) if start.has_weights else None,
        "weights_map": start.weights_map,
        "method": [section.model_dump(mode="json") for section in sections],
        "methods": _hash_methods(sections),
    }
    final = method.stages()[-1]
    others_read = run.readers > 1 and _uses_only(final, networks)
    last = train_stage(run, name, final, run.recipe.train, reads=inputs, method_name=name_methods(sections), shared=others_read)
    return last._replace(results=(*results, *last.results))


def find_shared_stage(run: Run, sections: Sequence[MethodSection], teachers: Sequence[Trained]) -> Method | None:
    """Return the untrained stage that trains a student by these methods; nothing if it reads other teachers than the given.

    Outputs of such teachers are the same for all students of a recipe.

    Raises:
        CompressError: The methods contradict each other.
    """
    networks = _select_networks(teachers)
    final = build_method(run, sections, networks).stages()[-1]
    return final if _uses_only(final, networks) else None


def train_preparatory_stages(
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
    common = method if run.seed == run.recipe.seed else build_method(run.use_recipe_seed(), sections, networks)
    results: list[StageResult] = []
    before = [stage.stage for stage in method.stages()[:-1]]
    for index, stage in enumerate(method.stages()[:-1]):
        reads = {"teachers": knowledge, "stage": dict(stage.identity()), "method": identify_class(type(stage))}
        if _trains_student(stage):
            reads |= {"prepared": [result.key for result in results], "model": describe_model(run.recipe.student)}
        number = "" if before.count(stage.stage) == 1 else str(index)
        own_name = f"{stage.stage}{number}" if name == "student" else f"{name}-{stage.stage}{number}"
        shared = _belongs_to_teachers(stage, networks)
        where, trained = (run.use_recipe_seed(), common.stages()[index]) if shared else (run, stage)
        results += train_stage(
            where, own_name, trained, run.recipe.train, reads=reads, method_name=name_methods(sections)
        ).results
        if trained is not stage:
            stage.product().load_state_dict(trained.product().state_dict())
            freeze_all_but(stage, ())
    return results


def describe_model(section: ModelSection) -> dict[str, object]:
    """Return what decides the shape of a network: its name, its options, and its source."""
    options = section.model_dump(
        mode="json", exclude={"weights", "pretrained", "sha256", "weights_map", "train", "classes", "probe"}
    )
    return {**options, "source": hash_plugin("models", section.model)}


def _trains_student(stage: Method) -> bool:
    own = {id(parameter) for parameter in stage.student.parameters()}
    return any(id(parameter) in own for parameter in list_trained_parameters(stage))


def _belongs_to_teachers(stage: Method, given: Sequence[Network]) -> bool:
    """Return whether a stage has no part in any student, so that all seeds have it in common."""
    return not _trains_student(stage) and _uses_only(stage, given)


def _select_networks(teachers: Sequence[Trained]) -> list[Network]:
    return [trained.network for trained in teachers if isinstance(trained.network, Network)]


def _uses_only(stage: Method, given: Sequence[Network]) -> bool:
    """Return whether no teacher of a stage was made on the way."""
    return all(any(own is network for network in given) for own in stage.teachers)


def _hash_methods(sections: Sequence[MethodSection]) -> list[str]:
    return [hash_plugin("methods", section.name) for section in sections]
