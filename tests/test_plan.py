"""The plan: what `compress check` promises, and every contradiction that it finds before work begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.files import sha256_of
from compress.plan import Plan, baseline_names, facts, plan, title
from compress.recipe import Recipe, parse


@pytest.fixture
def make(tmp_path: Path, tiny_recipe: str):
    """Return a function that plans the tiny recipe with some fields replaced."""

    def planned(*overrides: str) -> Plan:
        return plan(recipe(tiny_recipe, *overrides), base=tmp_path, runs=tmp_path / "runs")

    return planned


def recipe(text: str, *overrides: str) -> Recipe:
    return parse(text.encode(), "tiny.yaml", overrides)


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_every_method_says_what_it_trains_and_ships(method: str) -> None:
    """A method's module carries the labelled lines that the plan shows, and its last stage is the student."""
    about = facts(method)
    assert about["Trained"]
    assert about["Shipped"]
    assert about["Source"]
    assert about["Stages"].split(", ")[-1] == "student"


def test_stages_come_in_the_order_of_the_run(make) -> None:
    """Data, teacher, preparatory stages, student, baselines, exports, gate, measurement, report."""
    planned = make("method=[{name: dih, heads_epochs: 3}]")
    assert [stage.name for stage in planned.stages] == [
        "data", "teacher", "heads", "student", "supervised", "export", "gate", "measure", "report",
    ]  # fmt: skip


def test_work_is_counted_in_images(make) -> None:
    """Work is epochs times whole batches; a frozen teacher sees each image once per epoch, without a teacher none does."""
    planned = make("method=[{name: dih, heads_epochs: 3}]", "train.epochs=2", "train.batch_size=100")
    work = {stage.name: stage.work for stage in planned.stages if stage.work}
    each = planned.images["train"] // 100 * 100
    assert (work["heads"].trained, work["heads"].teacher) == (3 * each, 3 * each)
    assert (work["student"].trained, work["student"].teacher) == (2 * each, 2 * each)
    assert work["supervised"].teacher == 0


def test_image_counts_are_those_of_the_split(make) -> None:
    """The plan's split sizes are what the loader really holds out."""
    from compress.data._dataset import hold_out
    from compress.records import Preprocess

    source = plugins.load("data", "digits")()
    preprocess = Preprocess(height=8, width=8, channels="gray", mean=(0,), std=(1,))
    data = source.load(preprocess)
    train, validation = hold_out(data.train, fraction=0.2, seed=1)
    expected = {"train": len(train.labels), "validation": len(validation.labels), "test": len(data.test.labels)}
    assert make().images == expected


def test_a_set_of_methods_has_a_title_and_a_baseline_a_name_fit_for_a_folder(tiny_recipe: str) -> None:
    """Reports say `dih(dist)`, folders `dih-dist`; two equal baselines are told apart by number."""
    made = recipe(
        tiny_recipe, "method=[{name: dih, logit_loss: dist}, kd]", "baselines=[{name: dih, logit_loss: dist}, kd, kd]"
    )
    assert title(made.method) == "dih(dist) + kd"
    assert baseline_names(made.baselines) == ["dih-dist", "kd-1", "kd-2"]


def test_finished_stages_are_pointed_out(make, tmp_path: Path) -> None:
    """A stage whose metrics are there is announced as found."""
    folder = tmp_path / "runs" / "tiny" / "teacher"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    found = {stage.name: stage.found for stage in make().stages}
    assert found["teacher"]
    assert not found["student"]


def test_given_weights_are_not_trained(make, tmp_path: Path) -> None:
    """A teacher with weights is frozen and costs no training."""
    (tmp_path / "teacher.safetensors").write_bytes(b"anything")
    sha256 = sha256_of(tmp_path / "teacher.safetensors")
    planned = make(f"teacher=[{{model: resnet_cifar.resnet20, weights: teacher.safetensors, sha256: {sha256}}}]")
    teacher = next(stage for stage in planned.stages if stage.name == "teacher")
    assert (teacher.work, teacher.trained, teacher.frozen) == (None, "", "everything")


def test_a_missing_file_alone_is_unreachable(make, tmp_path: Path) -> None:
    """When all that is wrong is a file that is not there, the exit code is 5, and the message has its whole path."""
    with pytest.raises(Unreachable, match=f"teacher.weights: {tmp_path}/gone.pt: there is no such file"):
        make("teacher={model: resnet_cifar.resnet8, weights: gone.pt}")


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
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"teacher={{model: resnet_cifar.resnet8, sha256: {'a' * 64}}}", "teacher.sha256: is the checksum of a file"),
        ("data.validation_fraction=0.001", "data.validation_fraction: 0.001 of 1347 images leaves 2 for 10 classes"),
        ("data.image_size=100000", "data.image_size: 100000 makes the images"),
        ("exports=[onnx, openvino, {format: onnx, opset: 20}]", "exports.2: writes student-fp32.onnx like exports.0"),
    ],
)
def test_each_contradiction_says_where_and_what(make, override: str, said: str) -> None:
    """A contradiction names its field, the value, and the other side."""
    with pytest.raises(CompressError, match=said):
        make(override)


def test_a_wrong_checksum_is_told(make, tmp_path: Path) -> None:
    """Weights that are not the ones that were meant are refused before any work."""
    (tmp_path / "teacher.pt").write_bytes(b"other")
    with pytest.raises(CompressError, match=r"teacher.sha256: .* has "):
        make(f"teacher={{model: resnet_cifar.resnet8, weights: teacher.pt, sha256: {'a' * 64}}}")


def test_a_run_without_exports_is_noted(make) -> None:
    """A recipe that leaves nothing to deploy is allowed, and said."""
    assert any("nothing is exported" in note for note in make("exports=[]").notes)
