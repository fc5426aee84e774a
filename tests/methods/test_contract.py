"""What every method promises; a new file in `compress/methods` is tested here the moment it exists."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress import freezing, plugins
from compress.errors import CompressError
from compress.events import Events
from compress.methods import Combined, Method, Setting
from compress.plan.method_stages import list_stages
from compress.recipe import TrainSection
from compress.records import Analysis
from compress.training import checkpoint, loop, preflight
from exporters.onnx import Onnx
from tests.methods.laws import check_each_network_runs_once
from tests.tiny import Repeated, batch, setting, tiny

NAMES = [name for name in plugins.list_names("methods") if name != "cwd"]  # dense logits alone, see test_dense


def build(name: str, where: Setting) -> Method:
    method: Method = plugins.load("methods", name)(where)
    return method


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest) -> Method:
    return build(request.param, setting())


def test_every_stage_passes_the_preflight_and_ends_as_it_was(method: Method) -> None:
    """The structural check accepts the method and leaves weights and statistics untouched."""
    before = {name: value.clone() for name, value in method.state_dict().items()}
    preflight.check_structure(method, batch())
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_training_one_batch_lowers_the_loss(method: Method) -> None:
    """A few steps on one batch lower the sum of the losses of every stage."""
    data = Repeated(batch(), 15)
    for stage in method.stages():
        fit = loop.fit(stage, data, Repeated(data.batch, 1), settings=TrainSection(epochs=2, lr=0.02, schedule="constant"))
        first, last = fit.epochs[0].losses["total"], fit.epochs[-1].losses["total"]
        assert last < first, stage.stage


def test_what_no_phase_lists_does_not_move(method: Method) -> None:
    """Weights and batch-norm statistics of everything frozen stay bit-equal through training."""
    data = Repeated(batch(), 3)
    for stage in method.stages():
        moving = {id(parameter) for group in stage.phases().values() for parameter in group}
        frozen = {
            f"{prefix}.{name}": (tensor, tensor.clone())
            for prefix, module in stage.named_modules()
            if not any(id(parameter) in moving for parameter in module.parameters())
            for name, tensor in module.state_dict().items()
        }
        loop.fit(stage, data, Repeated(data.batch, 1), settings=TrainSection(epochs=1))
        assert frozen or not stage.teachers
        assert all(not parameter.requires_grad for parameter in stage.parameters())
        for name, (tensor, before) in frozen.items():
            assert torch.equal(tensor, before), (stage.stage, name)


def test_the_optimizer_holds_exactly_what_the_phase_lists(method: Method) -> None:
    """Nothing is trained that is not listed, and everything that is listed is trained."""
    for stage in method.stages():
        phases = stage.phases()
        run = loop._StageTraining(
            stage,
            Repeated(batch(), 1),
            Repeated(batch(), 1),
            settings=TrainSection(),
            events=Events(),
            state=None,
            title="",
        )
        assert list(run.updates.optimizers) == list(phases)
        for name, optimizer in run.updates.optimizers.items():
            held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
            assert held == [id(parameter) for parameter in phases[name]]
        required = {id(parameter) for parameter in stage.parameters() if parameter.requires_grad}
        assert required == {id(parameter) for group in phases.values() for parameter in group}


def test_each_network_runs_once_per_step(method: Method) -> None:
    """One phase of one step runs every layer of student and teachers at most once, whatever the losses read."""
    check_each_network_runs_once(method)


def test_losses_are_finite_float32_numbers_in_mixed_precision(method: Method) -> None:
    """With forward passes in bfloat16 every term is one finite number of at least float32."""
    for stage in method.stages():
        for phase in stage.phases():
            for name, value in stage(stage.step(batch(), phase=phase, autocast=torch.bfloat16)).items():
                assert value.dtype == torch.float32, (stage.stage, name)
                assert value.dim() == 0
                assert torch.isfinite(value), (stage.stage, name)


@pytest.mark.parametrize("name", NAMES)
def test_the_teachers_that_are_given_are_never_changed(name: str) -> None:
    """Weights and batch-norm statistics of the user's teachers stay bit-equal, whatever the method trains."""
    where = setting(teachers=2)
    before = [{key: value.clone() for key, value in teacher.state_dict().items()} for teacher in where.teachers]
    data = Repeated(batch(), 3)
    for stage in build(name, where).stages():
        loop.fit(stage, data, Repeated(data.batch, 1), settings=TrainSection(epochs=1))
    for teacher, start in zip(where.teachers, before, strict=True):
        for key, value in teacher.state_dict().items():
            assert torch.equal(value, start[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_what_a_stage_leaves_behind_brings_back_what_was_shipped(name: str, tmp_path: Path) -> None:
    """The weights of each stage's product, read into a method that was built anew, give the same predictions."""
    where, data = setting(), Repeated(batch(), 3)
    trained, anew = build(name, where), build(name, setting())
    for index, (stage, fresh) in enumerate(zip(trained.stages(), anew.stages(), strict=True)):
        path = tmp_path / f"{index}.safetensors"
        loop.fit(stage, data, Repeated(data.batch, 1), settings=TrainSection(epochs=1))
        checkpoint.save_weights(path, stage.product(), metadata={})
        checkpoint.load_weights(fresh.product(), path)
    images = torch.randn(5, 1, 8, 8)
    shipped, again = (method.stages()[-1].deployable().eval() for method in (trained, anew))
    with torch.no_grad():
        assert torch.equal(shipped(images), again(images))


def test_the_module_docstring_says_what_check_prints(method: Method) -> None:
    """Every method file states what is trained, frozen and shipped, its stages and its source."""
    name = next(name for name in NAMES if plugins.load("methods", name) is type(method))
    about = plugins.describe("methods", name)
    for label in ("Trained:", "Frozen:", "Shipped:", "Stages:", "Source:"):
        assert f"\n{label} " in about.docstring, label
    options = {option: described.default for option, described in about.options.items()}
    assert [part.name for part in list_stages(name, options)] == [stage.stage for stage in method.stages()]
    for option, description in about.options.items():
        assert description.description, f"option {option} is not described"


def ships_the_student_alone(name: str) -> bool:
    return "\nShipped: the student.\n" in plugins.describe("methods", name).docstring


def operators(network: nn.Module) -> list[str]:
    """Return the operators of the exported graph, in order."""
    return [node.op_type for node in Onnx().convert(network, torch.zeros(1, 1, 8, 8)).graph.node]


@pytest.mark.parametrize("name", [name for name in NAMES if ships_the_student_alone(name)])
def test_a_shipped_student_is_built_like_one_that_was_never_distilled(name: str) -> None:
    """What is shipped is the student itself: the layers and parameters of a plain one, in their order, and no hook."""
    method, data = build(name, setting()).stages()[-1], Repeated(batch(), 1)
    loop.fit(method, data, data, settings=TrainSection(epochs=1))
    assert method.deployable() is method.student
    shipped, plain = (list(network.named_modules()) for network in (method.deployable(), tiny(2)))
    assert [(path, type(module)) for path, module in shipped] == [(path, type(module)) for path, module in plain]
    assert [parameter.shape for parameter in method.deployable().parameters()] == [each.shape for each in tiny(2).parameters()]
    assert not [path for path, module in shipped if module._forward_hooks or module._forward_pre_hooks]


@pytest.mark.slow
def test_a_shipped_student_is_exported_like_one_that_was_never_distilled() -> None:
    """Its graph holds the operators of the plain student; one method stands for all that ship the same layers."""
    method, data = build("dih", setting()).stages()[-1], Repeated(batch(), 1)
    loop.fit(method, data, data, settings=TrainSection(epochs=1))
    assert operators(method.deployable()) == operators(tiny(2))


@pytest.mark.parametrize("name", [name for name in NAMES if not ships_the_student_alone(name)])
def test_a_student_that_ships_more_ships_its_backbone_and_not_its_own_classifier(name: str) -> None:
    """Where another head is shipped, the student's own is neither shipped nor trained, and the rest of the student is both."""
    method = build(name, setting()).stages()[-1]
    shipped = {id(parameter) for parameter in method.deployable().parameters()}
    trained = {id(parameter) for group in method.phases().values() for parameter in group}
    own = {id(parameter) for parameter in method.student.classifier.parameters()}
    backbone = {id(parameter) for parameter in method.student.parameters()} - own
    assert backbone <= shipped
    assert backbone <= trained
    assert not own & (shipped | trained)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "supervised"])
def test_a_method_that_needs_a_teacher_says_so(name: str) -> None:
    """Without a teacher the method is refused with the reason."""
    with pytest.raises(CompressError, match="needs a teacher"):
        build(name, setting(teachers=0))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "supervised"])
def test_several_teachers_teach(name: str) -> None:
    """With two teachers both run, in one stage or another, and every loss is finite."""
    method = build(name, setting(teachers=2))
    preflight.check_structure(method, batch())
    ran: set[int] = set()
    for stage in method.stages():
        for index, teacher in enumerate(stage.teachers):
            teacher.module.first[0].register_forward_hook(lambda *_, index=index: ran.add(index))
        for phase in stage.phases():
            losses = stage(stage.step(batch(), phase=phase))
            assert all(torch.isfinite(value) for value in losses.values()), (stage.stage, losses)
    assert ran == {0, 1}


def test_combined_adds_the_terms_and_runs_each_network_once() -> None:
    """The sum of the combined terms is the sum of the parts, from one forward pass of each network."""
    where = setting()
    parts = {"kd": build("kd", where), "dist": build("dist", where)}
    whole = Combined(where, parts)
    data = batch()
    freezing.freeze_all_but(whole, whole.phases()["student"])
    whole.eval()
    terms = whole(whole.step(data))
    alone = {f"{name}.{term}": value for name, part in parts.items() for term, value in part(part.step(data)).items()}
    assert terms.keys() == alone.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, alone[name])
    check_each_network_runs_once(whole)


def test_combined_runs_preparatory_stages_first_and_trains_the_student_once() -> None:
    """A cohort with a further method trains its heads first; the student's parameters are listed once."""
    where = setting()
    whole = Combined(where, {"dih": build("dih", where), "dist": build("dist", where)})
    assert [stage.stage for stage in whole.stages()] == ["heads", "student"]
    listed = whole.phases()["student"]
    assert len({id(parameter) for parameter in listed}) == len(listed) == len(list(where.student.parameters()))
    preflight.check_structure(whole, batch())


def test_combined_refuses_what_cannot_be_combined() -> None:
    """Contradictions are refused with the reason: a second label loss, another head, a teacher that moves under its heads."""
    where = setting()

    class Moving(type(build("kd", where))):  # type: ignore[misc]
        moves_teacher = True

    class Replacing(type(build("kd", where))):  # type: ignore[misc]
        def deployable(self) -> nn.Module:
            return nn.Sequential(self.student)

    with pytest.raises(CompressError, match="supervised"):
        Combined(where, {"supervised": build("supervised", where), "kd": build("kd", where)})
    with pytest.raises(CompressError, match="changes the teacher"):
        Combined(where, {"moving": Moving(where), "dih": build("dih", where)})
    with pytest.raises(
        CompressError, match="'replacing' ships another head than the student's own, which is what the terms on"
    ):
        Combined(where, {"replacing": Replacing(where), "kd": build("kd", where)})
    with pytest.raises(CompressError, match="'replacing' and 'other' each ship another head"):
        Combined(where, {"replacing": Replacing(where), "other": Replacing(where)})


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("atsc", "dih"), "'atsc' changes the teacher to which 'dih' fitted its modules"),
        (
            ("simkd", "kd"),
            "'simkd' ships another head than the student's own, which is what the terms on labels and logits of 'kd' train",
        ),
        (
            ("kd", "atsc", "dist"),
            "'atsc' ships another head than the student's own, which is what the terms on labels and logits of 'kd', 'dist'",
        ),
        (("simkd", "atsc"), "'simkd' and 'atsc' each ship another head"),
    ],
)
def test_methods_that_contradict_each_other_are_refused_with_the_reason(names: tuple[str, ...], reason: str) -> None:
    """A teacher that moves, and a head that is not shipped, leave nothing for other methods to do."""
    where = setting()
    with pytest.raises(CompressError, match=reason):
        Combined(where, {name: build(name, where) for name in names})


def test_combined_gives_the_tables_of_all_methods() -> None:
    """What a method says of a finished stage is in the report of a combination too."""
    where = setting()

    class Telling(type(build("kd", where))):  # type: ignore[misc]
        def analyse(self, *_: object) -> tuple[Analysis, ...]:
            return (Analysis(title="told", columns=("a",), rows=(("1",),)),)

    whole = Combined(where, {"one": Telling(where), "dist": build("dist", where), "two": Telling(where)})
    data = Repeated(batch(), 1)
    assert [table.title for table in whole.analyse(data, data)] == ["told", "told"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("feed", {"ce_weight": 0.0}), ("fitnet", {"ce_weight": 0.0}), ("attention_transfer", {"ce_weight": 0.0})],
)
def test_a_classifier_that_no_term_trains_is_refused(name: str, options: dict[str, float]) -> None:
    """A student that would be shipped with the random classifier it began with is refused before training."""
    method = plugins.load("methods", name)(setting(), **options)
    with pytest.raises(CompressError, match="no term trains the classifier that is shipped"):
        preflight.check_structure(method, batch())


@pytest.mark.parametrize(
    ("name", "options"), [("kd", {"kd_weight": 0.0}), ("dist", {"inter_weight": 0.0, "intra_weight": 0.0})]
)
def test_weights_of_zero_that_leave_nobody_to_teach_are_refused(name: str, options: dict[str, float]) -> None:
    """A method without its own term would silently be plain training."""
    with pytest.raises(CompressError, match=r"so the teacher is ignored; raise .*, or use method 'supervised'"):
        plugins.load("methods", name)(setting(), **options)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "supervised"])
def test_a_student_that_is_its_own_teacher_is_refused(name: str) -> None:
    """A teacher that shares weights with the student would be trained."""
    where = setting()
    with pytest.raises(CompressError, match="shares weights with the student"):
        build(name, where._replace(teachers=(where.student,)))


def test_what_parts_of_a_combination_watch_keeps_their_names() -> None:
    """Two parts that log the same name stand side by side, each under its own."""
    where = setting()
    parts = {"one": build("dskd", where), "two": build("dskd", where)}
    whole = Combined(where, parts)
    step = whole.step(batch())
    whole(step)
    assert {name.partition(".")[0] for name in step.observed} == {"one", "two"}
    assert len(step.observed) == 2 * len({name.partition(".")[2] for name in step.observed})
