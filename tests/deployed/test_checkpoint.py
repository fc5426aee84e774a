"""Exporting weights that no run made: by the network's name, by a recipe, and what is said of what was proved."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.deployed.checkpoint import draw_pictures
from compress.deployed.request import read_classes
from compress.errors import CompressError
from compress.records import Preprocess
from exporters.bundle.bundle import check_bundle
from tests.deployed.brightness import invoke

MODEL = ("--model", "resnet_cifar.resnet8", "--classes", "4", "--image-size", "16")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a network of four classes, as people save them."""
    from compress.models.resnet_cifar import resnet8

    network = resnet8(4, 3).module
    path = tmp_path_factory.mktemp("weights") / "my net.pt"
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of many different pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    drawn = draw_pictures(80, Preprocess(height=20, width=24, channels="rgb", mean=(0.5,) * 3, std=(0.25,) * 3))
    for number, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


@pytest.mark.slow
def test_weights_of_a_named_network_become_a_bundle(weights: Path, tmp_path: Path) -> None:
    """Files, verdicts and a whole bundle are written, and what they prove and what not is said everywhere."""
    out = tmp_path / "out"
    done = invoke("export", weights, *MODEL, "--to", "onnx", "--to", "openvino:fp16", "--out", out, "--json")
    gates = json.loads(done.stdout)
    assert done.exit_code == 0, done.stderr
    assert {name: gate["status"] for name, gate in gates.items()} == {"my_net-fp32.onnx": "passed", "my_net-fp16.xml": "passed"}
    assert all(gate["accuracy"] is None and "accuracy is unknown" in gate["note"] for gate in gates.values())
    for said in ("drawn pictures", "Not proved: that these are right", "taken for granted: rgb pictures", "mean 0.5, 0.5, 0.5"):
        assert said in done.stderr
    manifest = check_bundle(out / "bundle")
    assert "no labels were given" in manifest.provenance["labels"]
    assert manifest.provenance["assumed"]
    assert invoke("verify", out / "bundle").exit_code == 0
    again = invoke("export", weights, *MODEL, "--out", out)
    assert again.exit_code == 2
    assert f"{out}: is there already and is not replaced" in again.stderr


@pytest.mark.slow
def test_int8_takes_its_ranges_from_given_pictures(weights: Path, photos: Path, tmp_path: Path) -> None:
    """Half of the pictures give the ranges, the others judge; without pictures int8 is refused before anything is loaded."""
    refused = invoke("export", weights, *MODEL, "--to", "onnx:int8")
    assert refused.exit_code == 2
    assert "give --images FOLDER with at least 64 pictures" in refused.stderr
    out = tmp_path / "out"
    numbers = ("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--channels", "rgb", "--classes", "a,b,c,d")
    done = invoke("export", weights, *MODEL, *numbers, "--images", photos, "--to", "onnx:int8", "--out", out, "--json")
    (gate,) = json.loads(done.stdout).values()
    assert gate["samples"] == 40
    assert done.exit_code in (0, 3)  # random weights may not stand int8
    assert "taken for granted" not in done.stderr


@pytest.mark.slow
def test_int8_of_weights_climbs_the_ladder(weights: Path, photos: Path, tmp_path: Path) -> None:
    """Where the first rung misses the gate, the next are tried as in a run, up to the one that needs teachers."""
    out, strict = tmp_path / "out", ("--set", "gate.max_abs_diff=0.000001", "--set", "int8.max_float_layers=0.2")
    done = invoke("export", weights, *MODEL, *strict, "--images", photos, "--to", "onnx:int8", "--out", out)
    assert done.exit_code == 3, done.stderr
    ladder = json.loads((out / "rejected" / "my_net-int8.onnx.ladder.json").read_text())
    assert ladder["chosen"] is None
    assert list(dict.fromkeys(rung["rung"] for rung in ladder["rungs"]))[-2:] == ["mixed", "distillation"]
    assert ladder["rungs"][-1]["reason"].startswith("a file of weights comes without teachers")
    assert "my_net-int8.onnx: no rung passed" in done.stderr
    assert sorted(path.name for path in (out / "rejected").iterdir()) == [
        "my_net-int8.onnx", "my_net-int8.onnx.gate.json", "my_net-int8.onnx.ladder.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_weights_of_a_recipes_student_are_judged_on_its_data(tmp_path: Path, tiny_recipe: str) -> None:
    """With a recipe labels are known, so the verdict is that of a run."""
    from compress.models.resnet_cifar import resnet8

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny_recipe, encoding="utf-8")
    torch.save(resnet8(10, 1).module.state_dict(), tmp_path / "student.pt")
    done = invoke("export", tmp_path / "student.pt", "--recipe", recipe, "--json")
    (gate,) = json.loads(done.stdout).values()
    assert done.exit_code == 0, done.stderr
    assert gate["accuracy"]["samples"] == 270
    assert "proved on the validation split of digits, 270 images, where the network itself has" in done.stderr
    assert check_bundle(tmp_path / "student-export" / "bundle").provenance["labels"] == "true"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "my net.pt: is no student's weights.safetensors in a run, .*give --model and --classes, e.g. compress export"),
        (("--model", "torchvision.resnet18"), "--model needs --classes"),
        (("--classes", "4"), "--classes is said of a network that is named; name it with --model"),
        (("--mean", "0.5"), "--mean is said of a network that is named"),
        ((*MODEL, "--mean", "0.5"), "--mean and --std belong together"),
        ((*MODEL, "--mean", "x", "--std", "1"), "--mean x: is not a list of numbers"),
        ((*MODEL, "--recipe", "r.yaml"), "--recipe says all of the network and its data; leave out --classes, --image-size"),
        ((*MODEL, "--hub", "hub"), "--hub is for a run; give it without"),
        (("--model", "resnet18", "--classes", "4"), "there is no 'resnet18'; did you mean .*'torchvision.resnet18'"),
        ((*MODEL, "--to", "onx"), "there is no 'onx'; did you mean 'onnx'"),
        ((*MODEL, "--to", "onnx:fp8"), "exports.precision: there is no 'fp8'; there are: fp16, fp32, int8"),
        ((*MODEL, "--set", "wdith=3"), "student.wdith: unknown field"),
        ((*MODEL[:2], "--classes", "1"), "--classes 1: gives 1 names that must be two or more"),
        ((*MODEL[:2], "--classes", "a,b,a"), "--classes a,b,a: gives 3 names"),
    ],
)
def test_a_bad_combination_is_said_before_anything_is_loaded(weights: Path, options: tuple[str, ...], said: str) -> None:
    """What does not go together is a message with exit code 2, and nothing is written."""
    done = invoke("export", weights, *options)
    assert done.exit_code == 2
    assert re.search(said, done.stderr), done.stderr
    assert not (weights.parent / "my net-export").exists()


@pytest.mark.slow
def test_weights_of_another_network_are_refused(weights: Path) -> None:
    """Another number of classes, or another network, is said with the options to correct."""
    for options in (
        ("--model", "resnet_cifar.resnet8", "--classes", "6"),
        ("--model", "resnet_cifar.resnet20", "--classes", "4"),
    ):
        done = invoke("export", weights, *options)
        assert done.exit_code == 2
        assert "or correct --model or --classes" in done.stderr


def test_classes_by_number_names_or_file(tmp_path: Path) -> None:
    """However they are given, they are names in label order."""
    names = tmp_path / "names.txt"
    names.write_text("cat\n\ndog, the\n", encoding="utf-8")
    assert read_classes("3") == ("0", "1", "2")
    assert read_classes("cat, dog") == ("cat", "dog")
    assert read_classes(str(names)) == ("cat", "dog, the")
    assert len(read_classes(",".join(f"class{number}" for number in range(500)))) == 500
    with pytest.raises(CompressError, match="gives 1 names"):
        read_classes("x" * 5000)


def test_drawn_pictures_are_the_same_each_time_and_differ_from_each_other() -> None:
    """They use the whole range of values, in gray and in colour, at any size."""
    for channels in ("gray", "rgb"):
        preprocess = Preprocess(height=17, width=24, channels=channels, mean=(0.5,), std=(0.25,))
        first, second = draw_pictures(8, preprocess), draw_pictures(8, preprocess)
        assert np.array_equal(first, second)
        assert first.shape == (8, 17, 24, preprocess.depth)
        assert len(np.unique(first.reshape(8, -1), axis=0)) == 8
        assert first.min() < 20
        assert first.max() > 235
