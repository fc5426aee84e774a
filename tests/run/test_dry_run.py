"""`compress check` refuses what `compress run` would refuse before training, without data and without writing anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import CompressError
from compress.recipe import parse
from compress.run import dry_run

CLASSES = tuple("0123456789")
RECIPE = b"""
name: checked
data: {source: digits, image_size: 8}
teacher: {model: resnet_cifar.resnet14}
student: {model: resnet_cifar.resnet8}
method: kd
"""


def check(where: Path, *overrides: str) -> None:
    recipe = parse(RECIPE, "recipe.yaml", overrides)
    dry_run.check_with_random_images(recipe, base=where, runs=where / "runs", classes=CLASSES)


@pytest.mark.parametrize("method", ["kd", "[{name: dih, logit_loss: dist}, dskd]", "feed_sequential", "atsc"])
def test_what_can_run_is_accepted_and_nothing_is_written(tmp_path, method):
    """A good recipe passes, whatever its method trains beside the student, and leaves no file behind."""
    check(tmp_path, f"method={method}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "method=[simkd, kd]",
            "which is what the terms on labels and logits of 'kd' train; terms on maps alone, .*; run 'simkd' alone",
        ),
        ("method=[simkd, {name: feed, ce_weight: 0}]", "with ce_weight: 0, are not combined with it either; run 'simkd' alone"),
        ("method=[atsc, {name: dskd, ce_weight: 0, alpha: 0}]", "with ce_weight: 0, are not combined with it either"),
        ("method=[atsc, dih]", "changes the teacher to which 'dih' fitted its modules; drop one"),
        ("train={engine: cuda_graphs, device: cpu}", "^train.engine: 'cuda_graphs' runs on a CUDA device alone"),
        ("baselines=[[supervised, kd]]", "'supervised' adds nothing to other methods"),
        ("method={name: dih, taps: [layer7]}", "layer7"),
        ("method={name: fitnet, student_tap: layer9}", "layer9"),
    ],
)
def test_what_constructors_refuse_is_refused(tmp_path, override, message):
    """Contradictions that only the networks can show are found before any data is read."""
    with pytest.raises(CompressError, match=message):
        check(tmp_path, override)


def test_an_engine_is_refused_where_the_recipe_names_it(tmp_path):
    """A teacher's own engine is that teacher's mistake, not the student's."""
    other, wrong = "{model: resnet_cifar.resnet14}", "{model: resnet_cifar.resnet14, train: {engine: cuda_graphs}}"
    for teachers, where in ((wrong, "teacher"), (f"[{other}, {wrong}]", "teacher.1")):
        with pytest.raises(CompressError, match=rf"^{where}\.train\.engine: 'cuda_graphs' runs on a CUDA device alone"):
            check(tmp_path, "train.device=cpu", f"teacher={teachers}")
