"""The plan: what `compress check` promises, and every contradiction that it finds before work begins."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from compress import plugins
from compress.cli.tables import draw_plan
from compress.errors import CompressError, Unreachable
from compress.plan.method_stages import list_stages, read_labels
from compress.plan.names import name_baselines, name_methods
from compress.plan.plan import Plan, make_plan
from compress.recipe import Recipe, dump, parse
from compress.system.files import hash_file
from compress.system.processors import count_processors


@pytest.fixture
def make(tmp_path: Path, tiny_recipe: str):
    """Return a function that plans the tiny recipe with some fields replaced."""

    def planned(*overrides: str) -> Plan:
        return make_plan(recipe(tiny_recipe, *overrides), base=tmp_path, runs=tmp_path / "runs")

    return planned


def recipe(text: str, *overrides: str) -> Recipe:
    return parse(text.encode(), "tiny.yaml", overrides)


@pytest.mark.parametrize("method", plugins.list_names("methods"))
def test_every_method_says_what_it_trains_and_ships(method: str) -> None:
    """A method's module carries the labelled lines that the plan shows, and its last stage is the student."""
    about = read_labels(method)
    assert about["Trained"]
    assert about["Shipped"]
    assert about["Source"]
    defaults = {name: option.default for name, option in plugins.describe("methods", method).options.items()}
    assert list_stages(method, defaults)[-1] == ("student", None)


def test_stages_come_in_the_order_of_the_run(make) -> None:
    """Data, teacher, preparatory stages, student, baselines, exports, gate, measurement, report."""
    planned = make("method=[{name: dih, heads_epochs: 3}]")
    assert [stage.name for stage in planned.stages] == [
        "data", "teacher", "heads", "student", "supervised", "export", "gate", "measure", "report",
    ]  # fmt: skip


@pytest.mark.parametrize(("source", "metric"), [("digits", "top-1"), ("digit_scenes", "mIoU")])
def test_the_gate_names_the_metric_of_its_task(source: str, metric: str, make) -> None:
    """What may drop is called as the task calls it, and the images that a drop of top-1 needs are no word on another metric."""
    planned = make(f"data={{source: {source}, image_size: 32}}", "data.validation_fraction=0.1")
    (gate,) = [stage for stage in planned.stages if stage.name == "gate"]
    assert f": {metric} at most" in gate.about
    assert any("cannot exclude a drop" in note for note in planned.notes) == (metric == "top-1")


def test_stages_of_one_name_are_numbered_as_their_folders_are(make) -> None:
    """Where two methods prepare the same, each stage has a folder of its own, numbered among all preparatory stages."""
    planned = make("method=[{name: feed, paraphrase: 0.5}, dih, {name: dih, alpha: 0.1}]", "baselines=[[dih, dih]]")
    kept = [stage.kept for stage in planned.stages if stage.about.startswith("what ")]
    assert kept == ["paraphrasers", "heads1", "heads2", "dih-dih-heads0", "dih-dih-heads1"]


def test_no_more_threads_are_measured_than_there_are_processors(make) -> None:
    """What the measurement would refuse after hours of training is refused before, with what is possible."""
    available = count_processors()
    assert make(f"measure.threads={available}")
    with pytest.raises(CompressError, match=rf"measure.threads: 1000 is more than the {available} logical processors? of"):
        make("measure.threads=1000")


def test_one_of_a_kind_is_counted_in_the_singular(make) -> None:
    """The plan says 1 thread, 1 epoch and 1 point, and 2 epochs."""
    told = " ".join(stage.about for stage in make("exports=[{format: onnx, precision: int8}]", "int8.epochs=2").stages)
    assert all(words in told for words in ("1 thread,", "at most 1 point lower", "distillation of 2 epochs"))
    console = Console(width=200, file=io.StringIO())
    console.print(draw_plan(make()))
    assert "1 epoch × " in console.file.getvalue()


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("1", "2", "3"), "3 classes (1 to 3: labels begin at 1, not at 0)"),
        (("1", "10", "2"), "3 classes;"),
        (("7", "9"), "2 classes;"),
    ],
)
def test_classes_are_said_to_begin_at_1_where_they_do(make, classes: tuple[str, ...], said: str) -> None:
    """Names that are numbers in another order, as texts are, or with gaps, are only counted."""
    console = Console(width=200, file=io.StringIO())
    console.print(draw_plan(make().model_copy(update={"classes": classes})))
    assert f": {said}" in console.file.getvalue()


def test_a_size_that_no_picture_can_have_is_refused_once(make) -> None:
    """It is a matter of the recipe, and not of each of its pictures."""
    with pytest.raises(CompressError, match=r"^data.image_size: 100000 × 100000 pixels are more than 89,478,485; lower it"):
        make("data.image_size=100000")


def test_every_generation_is_a_stage_of_a_student(make) -> None:
    """A line of students is listed one by one: the first has the given teachers, every other the one before."""
    planned = make(
        "teacher=[{model: resnet_cifar.resnet8}, {model: resnet_cifar.resnet14}]",
        "method={name: feed_sequential, generations: 3}",
        "baselines=[{name: feed_sequential, generations: 2}, {name: feed_sequential, generations: 1}, kd]",
    )
    students = {stage.name: stage.work for stage in planned.stages if stage.student}
    each = students["student"].trained
    assert {name: work.teacher // each for name, work in students.items()} == {
        "generation1": 2, "generation2": 1, "student": 1,
        "feed_sequential-generations-2-generation1": 2, "feed_sequential-generations-2": 1,
        "feed_sequential-generations-1": 2, "kd": 2,
    }  # fmt: skip
    assert {work.trained for work in students.values()} == {each}
    first = next(stage for stage in planned.stages if stage.name == "generation1")
    assert (first.kept, first.trained, first.frozen) == (
        "generation1", read_labels("feed_sequential")["Trained"], read_labels("feed_sequential")["Frozen"],
    )  # fmt: skip


def test_a_stage_that_an_option_brings_is_listed_where_the_option_is_set(make) -> None:
    """Paraphrasers are trained, for as many epochs as their option says, only where they are asked for."""
    planned = make("method={name: feed, paraphrase: 0.5, paraphrasers_epochs: 7}", "baselines=[feed]")
    trained = {stage.name: stage for stage in planned.stages if stage.work}
    assert list(trained) == ["teacher", "paraphrasers", "student", "feed"]
    assert (trained["paraphrasers"].work.epochs, trained["paraphrasers"].student) == (7, False)


@pytest.mark.parametrize(
    "line", ["heads if wanted, student", "generation1 to generation{size - 1}, student", "2 heads, student"]
)
def test_a_line_of_stages_that_cannot_be_read_is_refused(install, line: str) -> None:
    """A user's method whose docstring names an option that it has not, or no stage, is refused with what to write."""
    labels = f"Trained: x.\nFrozen: x.\nShipped: x.\nStages: {line}\nSource: x."
    install(
        "methods", "mine", f'"""Mine.\n\n{labels}\n"""\nclass Mine:\n    def __init__(self, setting, *, count: int = 2): ...\n'
    )
    with pytest.raises(CompressError, match=r"acme.mine_methods: 'Stages: .*' is no stage; write NAME, NAME if OPTION"):
        list_stages("mine", {"count": 2})


@pytest.mark.slow
def test_a_line_of_students_that_starts_from_weights_is_noted(make, tmp_path: Path) -> None:
    """Weights to start from are the last generation's alone, and the plan says so."""
    (tmp_path / "start.safetensors").write_bytes(b"anything")
    start = "student={model: resnet_cifar.resnet8, weights: start.safetensors}"
    notes = make(start, "method=feed_sequential").notes
    assert any("every generation before the last starts from random weights" in note for note in notes)
    assert not any("generation" in note for note in (*make(start).notes, *make("method=feed_sequential").notes))


def test_work_is_counted_in_images(make) -> None:
    """Work is epochs times whole batches; a frozen teacher sees each view of an image once, or every batch if none is kept."""
    dih = ("method=[{name: dih, heads_epochs: 3}]", "train.epochs=2", "train.batch_size=100")
    for more, heads, student in (
        (("teacher_outputs={store: off}",), (3, 3000), (2, 2000)),
        ((), (3, 1), (2, 1)),
        (("data.crop_padding=1", "data.views=2"), (3, 2), (2, 2)),
        (("data.crop_padding=1",), (3, 3000), (2, 2000)),
    ):
        planned = make(*dih, *more)
        work = {stage.name: stage.work for stage in planned.stages if stage.work}
        images = planned.images["train"]
        each = images // 100 * 100
        for name, (epochs, answered) in (("heads", heads), ("student", student)):
            assert (work[name].trained, work[name].teacher) == (
                epochs * each,
                answered if answered > 100 else answered * images,
            ), (more, name)
        assert work["supervised"].teacher == 0


def test_image_counts_are_those_of_the_split(make) -> None:
    """The plan's split sizes are what the loader really holds out."""
    from compress.data import hold_out
    from compress.records import Preprocess

    source = plugins.load("data", "digits")()
    preprocess = Preprocess(height=8, width=8, channels="gray", mean=(0,), std=(1,))
    data = source.load(preprocess)
    train, validation = hold_out(data.train, fraction=0.2, seed=1)
    expected = {"train": len(train.labels), "validation": len(validation.labels), "test": len(data.test.labels)}
    assert make().images == expected


def test_a_set_of_methods_has_a_title_and_a_baseline_a_name_fit_for_a_folder(tiny_recipe: str) -> None:
    """Reports say `dih(dist)`, folders `dih-dist`; baselines of one method by their options, two equal ones by number."""
    made = recipe(
        tiny_recipe, "method=[{name: dih, logit_loss: dist}, kd]", "baselines=[{name: dih, logit_loss: dist}, kd, kd]"
    )
    assert name_methods(made.method) == "dih(dist) + kd"
    assert name_baselines(made.baselines) == ["dih-dist", "kd-1", "kd-2"]
    several = "{name: kd, temperature: 0.5}, {name: kd, temperature: 2, ce_weight: 0.1}, kd, [kd, dist], dist"
    assert name_baselines(recipe(tiny_recipe, f"baselines=[{several}]").baselines) == [
        "kd-temperature-0.5-ce_weight-default", "kd-temperature-2-ce_weight-0.1", "kd-temperature-default-ce_weight-default",
        "kd-dist", "dist",
    ]  # fmt: skip


def test_finished_stages_are_pointed_out(make, tmp_path: Path, tiny_recipe: str) -> None:
    """A stage whose metrics are there is announced as found, unless the recipe of the last run was another one."""
    folder = tmp_path / "runs" / "tiny"
    for name in ("teacher", "student"):
        (folder / name).mkdir(parents=True)
        (folder / name / "metrics.json").write_text("{}")
    assert not any(stage.found for stage in make().stages)  # of which recipe, nobody knows
    (folder / "recipe.yaml").write_text(dump(recipe(tiny_recipe), tmp_path))
    found = {stage.name: stage.found for stage in make().stages}
    assert (found["teacher"], found["student"], found["supervised"]) == (True, True, False)
    other = {stage.name: (stage.found, stage.changed) for stage in make("method.temperature=4").stages}
    assert (other["teacher"], other["student"]) == ((True, ()), (False, ("method",)))


def test_given_weights_are_not_trained(make, tmp_path: Path) -> None:
    """A teacher with weights is frozen and costs no training."""
    (tmp_path / "teacher.safetensors").write_bytes(b"anything")
    sha256 = hash_file(tmp_path / "teacher.safetensors")
    planned = make(f"teacher=[{{model: resnet_cifar.resnet20, weights: teacher.safetensors, sha256: {sha256}}}]")
    teacher = next(stage for stage in planned.stages if stage.name == "teacher")
    assert (teacher.work, teacher.trained, teacher.frozen) == (None, "", "everything")


def test_a_missing_file_alone_is_unreachable(make, tmp_path: Path) -> None:
    """When all that is wrong is a file that is not there, the exit code is 5, and the message has its whole path."""
    with pytest.raises(Unreachable, match=f"teacher.weights: {tmp_path}/gone.pt: there is no such file"):
        make("teacher={model: resnet_cifar.resnet8, weights: gone.pt}")
    with pytest.raises(Unreachable, match=r"teacher\.weights: /dev/zero: is a device or a pipe, not a file"):
        make("teacher={model: resnet_cifar.resnet8, weights: /dev/zero}")


def test_all_problems_are_told_at_once(make) -> None:
    """Contradictions of all sections come together, one line each, and outweigh a missing file."""
    with pytest.raises(CompressError) as caught:
        make(
            "teacher={model: resnet_cifar.resnet8, weights: gone.pt}",
            "data.mean=[0.1, 0.2]",
            "data.crop_padding=8",
            "train.warmup_epochs=1",
            "train.batch_size=5000",
            "exports=[onnx, onnx]",
        )
    lines = str(caught.value).splitlines()
    fields = ["teacher.weights", "exports.1", "data.crop_padding", "train.warmup_epochs", "data.mean", "train.batch_size"]
    assert [line.partition(":")[0] for line in lines] == fields
    for said in (
        "train.warmup_epochs: 1 leaves nothing of 1 epochs; lower it",
        "data.mean: has 2 values, the images have 1 channels; give one for each",
        "train.batch_size: 5000 is more than the ",
        " training images; lower it",
    ):
        assert said in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"teacher={{model: resnet_cifar.resnet8, sha256: {'a' * 64}}}", "teacher.sha256: is the checksum of a file"),
        ("data.validation_fraction=0.001", "data.validation_fraction: 0.001 of 1347 images leaves 2 for 10 classes"),
        ("data.image_size=100000", "data.image_size: 1797 images of 100000 × 100000 need"),
        ("data.flip=true", "data.flip: the mirror image of a digit is none, and digits shows digits"),
        ("data.views=3", "data.views: has no effect without crop_padding or flip"),
        (f"data.augmentation_seed={2**63}", r"data.augmentation_seed: 9223372036854775808 is not below 2\^63"),
        ("data.train_images=3", "data.train_images: 3 is not between the 10 classes and the"),
        ("train={nesterov: true, momentum: 0.0}", "train.nesterov: needs a momentum, and train.momentum is 0"),
        ("exports=[onnx, openvino, {format: onnx, opset: 20}]", "exports.2: writes student-fp32.onnx like exports.0"),
        (
            "method={name: atsc, drift_weight: 40}",
            r"^method.drift_weight: 40 with train.lr 0.05 .* = 4, and SGD with momentum 0.9",
        ),
        ("baselines=[supervised, [kd, {name: atsc, drift_weight: 40}]]", r"^baselines.1.1.drift_weight: 40 with"),
    ],
)
def test_each_contradiction_says_where_and_what(make, override: str, said: str) -> None:
    """A contradiction names its field, the value, and the other side."""
    with pytest.raises(CompressError, match=said):
        make(override)


def test_teachers_share_the_weight_of_their_drift(make) -> None:
    """What diverges with one teacher is allowed with two, over whom the drift is averaged; AdamW has no such bound."""
    two = "teacher=[{model: resnet_cifar.resnet8}, {model: resnet_cifar.resnet8}]"
    assert make("method={name: atsc, drift_weight: 40}", two)
    assert make("method={name: atsc, drift_weight: 40}", "train.optimizer=adamw")


def test_a_wrong_checksum_is_told(make, tmp_path: Path) -> None:
    """Weights that are not the ones that were meant are refused before any work."""
    (tmp_path / "teacher.pt").write_bytes(b"other")
    with pytest.raises(CompressError, match=r"teacher.sha256: .* has "):
        make(f"teacher={{model: resnet_cifar.resnet8, weights: teacher.pt, sha256: {'a' * 64}}}")


def test_a_run_without_exports_is_noted(make) -> None:
    """A recipe that leaves nothing to deploy is allowed, and said."""
    assert any("nothing is exported" in note for note in make("exports=[]").notes)


def test_the_plan_says_which_rungs_of_int8_will_be_tried(tmp_path: Path, tiny_recipe: str) -> None:
    """`compress check` has a line for each int8 file: the rungs in order, or the one that is pinned, and no line for others."""
    fixed = "exports=[onnx, {format: openvino, precision: int8}]"

    def lines(*overrides: str) -> list[str]:
        parsed = parse(tiny_recipe.encode(), "tiny.yaml", (fixed, *overrides))
        stages = make_plan(parsed, base=tmp_path, runs=tmp_path / "runs").stages
        return [stage.about for stage in stages if stage.name == "int8"]

    (line,) = lines("int8.max_minutes=7", "int8.calibration_images=123")
    places = [line.index(word) for word in ("openvino", "default", "bias_correction", "spare bit", "in float", "distillation")]
    assert places == sorted(places)
    assert "up to 123 training images" in line
    assert "after 7 minutes" in line
    (line,) = lines("int8.rung=mixed")
    assert "int8.rung" in line
    assert "distillation" not in line
