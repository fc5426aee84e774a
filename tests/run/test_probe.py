"""Teachers that do not know the classes of the data: a linear probe as a stage of its own, and maps without a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from compress import recipe, records
from compress.errors import CompressError
from compress.events import Events
from compress.freezing import evaluating
from compress.models.resnet_cifar import resnet8
from compress.plan.plan import make_plan
from compress.records import StageResult
from compress.run.build import build_method
from compress.run.context import Run, open_run
from compress.run.dry_run import check_networks
from compress.run.teachers import obtain_teacher
from compress.training import checkpoint

Open = Callable[..., AbstractContextManager[Run]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of 37 classes, and the same without its classifier and with a head of a self-supervised training."""
    torch.manual_seed(0)
    folder, network = tmp_path_factory.mktemp("weights"), resnet8(37, 1)
    checkpoint.save_weights(folder / "other.safetensors", network, metadata={})
    bare = {f"backbone.{name}": value for name, value in network.module.state_dict().items() if not name.startswith("linear")}
    torch.save(bare | {"projector.0.weight": torch.zeros(3, 3)}, folder / "bare.pth")
    return folder


@pytest.fixture
def open_with(tmp_path: Path, tiny_recipe: str) -> Open:
    """Return `open_with(teacher, ...)`, which plans and opens a run on digits with that teacher."""

    @contextmanager
    def open_with(teacher: str, *further: str) -> Iterator[Run]:
        section = f"teacher={{model: resnet_cifar.resnet8, {teacher}}}"
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", [section, *further])
        make_plan(parsed, base=tmp_path, runs=tmp_path)
        with open_run(parsed, base=tmp_path, runs=tmp_path, events=Events()) as run:
            yield run

    return open_with


def test_a_probe_is_a_cached_stage_and_leaves_all_but_the_classifier(open_with: Open, weights: Path) -> None:
    """It knows far more than chance, has its record and table, is found again, and no other weight moved."""
    with open_with(f"weights: {weights / 'other.safetensors'}, probe: {{ridges: [0.1, 0.001]}}") as run:
        trained = obtain_teacher(run, 0, run.recipe.teacher[0])
        result = records.read(run.folder / "teacher" / "metrics.json", StageResult)
        again = obtain_teacher(run, 0, run.recipe.teacher[0])
    assert result.validation is not None
    assert result.validation.percent > 60
    assert [row[0] for row in result.analyses[0].rows] == ["0.1", "0.001"]
    assert [row[-1] for row in result.analyses[0].rows].count("kept") == 1
    assert again.key == trained.key
    plain = resnet8(37, 1)
    checkpoint.load_weights(plain, weights / "other.safetensors")
    moved = {
        name for name, value in trained.network.module.state_dict().items() if not _same(plain.module.state_dict()[name], value)
    }
    assert moved == {"linear.weight", "linear.bias"}


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def test_a_backbone_without_a_classifier_gets_one(open_with: Open, weights: Path) -> None:
    """A file of a self-supervised training is mapped, its projection head left out by an empty name, and probed."""
    mapping = "{'^backbone\\.': '', '^projector.*': ''}"
    with open_with(f"weights: {weights / 'bare.pth'}, weights_map: {mapping}, probe: true") as run:
        bare = obtain_teacher(run, 0, run.recipe.teacher[0])
        batch = next(run.batch_in_order(run.data.validation).epoch(0))
    assert bare.results[0].validation is not None
    with evaluating(bare.network):
        answers = bare.network(batch.images).argmax(dim=1)
    assert float((answers == batch.labels).float().mean()) > 0.6


def test_a_teacher_without_the_classes_teaches_by_its_maps(open_with: Open, weights: Path) -> None:
    """Methods on maps take it as it is; every one that reads its logits is refused, and says what to do."""
    with open_with(
        f"weights: {weights / 'other.safetensors'}, classes: none", "method=fitnet", "baselines=[supervised]"
    ) as run:
        trained = obtain_teacher(run, 0, run.recipe.teacher[0])
        assert not trained.knows_classes
        assert run.recipe.opponent == "student"
        for options in (
            "fitnet",
            "feed",
            "attention_transfer",
            "pkd",
            "feed_sequential",
            "{name: dskd, kd_weight: 0, alpha: 0}",
        ):
            section = recipe.parse(_write_recipe(run, options), "tiny.yaml").method
            build_method(run, section, [trained.network])
        for options in ("kd", "dist", "dih", "dskd", "simkd", "rkd", "{name: fitnet, kd_weight: 1}"):
            section = recipe.parse(_write_recipe(run, options), "tiny.yaml").method
            with pytest.raises(CompressError, match=r"does not know the classes \(classes: none\).*probe: true"):
                build_method(run, section, [trained.network])
        check_networks(run, next(run.batch_shuffled(run.data.train, run.recipe.train, seed=0).epoch(0)))


def _write_recipe(run: Run, method: str) -> bytes:
    return (
        "{name: x, data: {source: digits, image_size: 8}, teacher: {model: resnet_cifar.resnet8}, "
        f"student: {{model: resnet_cifar.resnet8}}, method: {method}}}"
    ).encode()


@pytest.mark.parametrize(
    ("teacher", "further", "message"),
    [
        ("geometry: letterbox", (), r"teacher.geometry: letterbox is how images come to teacher.image_size"),
        ("probe: true", (), r"teacher.probe: .* teacher.weights names none"),
        ("weights: W, probe: true, train: {epochs: 1}", (), r"teacher.probe: leaves all .* teacher.train trains"),
        ("weights: W, probe: true, classes: none", (), r"teacher.classes: is for a teacher that is given"),
        ("weights: W, classes: none", ("gate.max_drop_from_teacher_points=1",), r"no teacher knows the classes"),
    ],
)
def test_contradictions_are_refused_by_the_plan(
    open_with: Open, weights: Path, teacher: str, further: tuple[str, ...], message: str
) -> None:
    """What cannot be is told before anything is loaded."""
    section = teacher.replace("W", str(weights / "other.safetensors"))
    with pytest.raises(CompressError, match=message), open_with(section, *further):
        pass


def test_weights_for_other_classes_name_the_ways_out(open_with: Open, weights: Path) -> None:
    """A given teacher whose classifier does not fit is refused with what can be done with it."""
    with open_with(f"weights: {weights / 'other.safetensors'}") as run:
        batch = next(run.batch_shuffled(run.data.train, run.recipe.train, seed=0).epoch(0))
        with pytest.raises(CompressError, match=r"has 37 classes and the data has 10.*`train`.*`probe: true`.*`classes: none`"):
            check_networks(run, batch)
