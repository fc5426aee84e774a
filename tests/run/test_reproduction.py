"""Recipes for published numbers: what they promise stands in them, `compress check` takes them, and they start."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from compress import recipe
from compress.events import Events
from compress.plan.plan import make_plan
from compress.recipe import Recipe
from compress.run import cache, dry_run
from compress.run.build import build_method, build_network
from compress.run.context import Run
from compress.training import loop
from tests import encoded_pictures
from tests.tiny import CPU

pytestmark = pytest.mark.slow

NAMES = ("cifar100_resnet56_resnet20", "cifar100_wrn40_2_wrn40_1", "cifar100_resnet8x4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in hub layout with four training images and one test image of each of a hundred classes."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("cifar100")
    for split, count in (("train", 400), ("test", 100)):
        images = [{"bytes": encoded_pictures.encode_random(row), "path": f"{row}.png"} for row in range(count)]
        table = pa.table({"img": images, "fine_label": [row % 100 for row in range(count)]})
        parquet.write_table(table, folder / f"{split}.parquet")
    return folder


def load(name: str, root: Path, data: Path) -> Recipe:
    return recipe.load(root / "recipes" / f"{name}.yaml", [f"data.path={data}", "data.validation_fraction=0.5"])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_it_claims_and_passes_the_check(name: str, root: Path, data: Path, tmp_path: Path) -> None:
    """240 epochs in steps at 150, 180 and 210, fresh crops from a black border, the sources' weights, the last epoch."""
    found = load(name, root, data)
    for train in (found.train, found.teacher[0].train):
        assert train is not None
        assert (train.epochs, train.batch_size, train.lr, train.schedule, train.select) == (240, 64, 0.05, "step", "last")
        assert [share * train.epochs for share in train.milestones] == [150, 180, 210]
        assert (train.momentum, train.nesterov, train.weight_decay) == (0.9, False, 5e-4)
    assert (found.data.crop_padding, found.data.crop_border, found.data.flip, found.data.views) == (4, "zero", True, None)
    assert [method.options()["preset"] for method in found.method] == ["paper"]
    plan = make_plan(found, base=tmp_path, runs=tmp_path / "runs")
    dry_run.check_with_random_images(found, base=tmp_path, runs=tmp_path / "runs", classes=plan.classes)


def test_it_starts(root: Path, data: Path, tmp_path: Path) -> None:
    """Some steps of the student by its own networks, method and settings give finite losses."""
    found = load(NAMES[0], root, data)
    plan = make_plan(found, base=tmp_path, runs=tmp_path / "runs")
    images = dry_run._make_random_data(found, tmp_path, plan.classes)
    run = Run(found, tmp_path, tmp_path, cache.Cache(tmp_path), Events(), CPU, images, 0, found.seed, tmp_path)
    method = build_method(run, found.method, [build_network(run, found.teacher[0], "teacher")])
    settings = found.train.model_copy(update={"epochs": 3, "batch_size": len(images.train.labels)})
    fit = loop.fit(
        method, run.batch_shuffled(images.train, settings, seed=0), run.batch_in_order(images.validation), settings=settings
    )
    assert len(fit.epochs) == 3
    assert all(math.isfinite(value) for epoch in fit.epochs for value in epoch.losses.values())
