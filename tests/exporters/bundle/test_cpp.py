"""The C++ program of a bundle: it compiles with what the OpenVINO package brings, and gives the expected answers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from compress.preprocess import decode
from exporters.bundle.bundle import check_bundle
from exporters.bundle.cpp import build_cpp, escape_literal
from exporters.openvino import Openvino
from tests import encoded_pictures
from tests.deployed.brightness import measure
from tests.exporters import pets
from tests.exporters.bundle.cpp_programs import compile_program, compiled, run_program

pytestmark = pytest.mark.slow

TEMPERATURE = 1.7


def write_program(folder: Path, exporter: Openvino, **levels: int) -> Path:
    """Write a bundle of one file and build its program, warnings being errors; return the bundle."""
    preprocess = pets.PREPROCESS.model_copy(update=levels)
    file = pets.export(folder, exporter)._replace(measured=measure("openvino", TEMPERATURE))
    bundle = pets.write(folder / "bundle", [file], preprocess=preprocess)
    compile_program(bundle)
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_program(tmp_path_factory.mktemp("cpp"), Openvino())


def check_answers(bundle: Path, folder: Path) -> None:
    """Class and logits of every sample picture are those that the bundle expects, and the score that of its temperature."""
    expected = json.loads((bundle / "samples" / "expected.json").read_text())["pictures"]
    paths = []
    for number, sample in enumerate(expected):
        with Image.open(bundle / "samples" / sample["file"]) as image:
            image.save(folder / f"{number}.ppm")
        paths.append(folder / f"{number}.ppm")
    done = run_program(bundle, *paths)
    assert (done.returncode, done.stderr) == (0, "")
    for line, sample in zip(done.stdout.splitlines(), expected, strict=True):
        _, name, score, *logits = line.split("\t")
        assert name == sample["predicted"]
        assert float(score) == pytest.approx(softmax(np.array(sample["logits"]) / TEMPERATURE).max(), abs=1e-4)
        assert [float(value) for value in logits] == pytest.approx(sample["logits"], abs=1e-4)


@compiled
def test_program_gives_the_expected_answers(bundle: Path, tmp_path: Path) -> None:
    """Compiled without a warning, it says of every sample picture what the trained network says."""
    check_answers(bundle, tmp_path)


@compiled
def test_program_leaves_nothing_in_the_users_folders(bundle: Path, tmp_path: Path) -> None:
    """OpenVINO's C++ library has no telemetry and writes no cache: whoever runs the program finds no file of it."""
    folders = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    for name in folders:
        (tmp_path / name).mkdir()
    sample = next((bundle / "samples").glob("*.png"))
    with Image.open(sample) as image:
        image.save(tmp_path / "sample.ppm")
    command = [bundle.parent / "build" / "example", bundle, tmp_path / "sample.ppm"]
    environment = os.environ | {name: str(tmp_path / name) for name in folders}
    subprocess.run(list(map(str, command)), env=environment, cwd=tmp_path, capture_output=True, check=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["sample.ppm"]


@compiled
def test_program_feeds_pixels_to_a_file_that_normalises_by_itself(tmp_path: Path) -> None:
    """A file that carries the preprocessing, in batches of two, gives the same answers."""
    check_answers(write_program(tmp_path, Openvino(preprocess="inside", batch=2)), tmp_path)


@compiled
def test_program_reads_the_logits_of_a_file_that_gives_class_and_score(tmp_path: Path) -> None:
    """Further outputs of the file do not disturb it."""
    check_answers(write_program(tmp_path, Openvino(postprocess="inside")), tmp_path)


@compiled
def test_program_brings_twelve_bits_to_eight_as_training_does(tmp_path: Path) -> None:
    """Where the recipe named a white level, a picture of two bytes a value gives what its upper eight bits give."""
    bundle = write_program(tmp_path, Openvino(), black_level=100, white_level=4000)
    values = np.random.default_rng(6).integers(0, 4096, (6, 8, 3))
    wide, narrow = tmp_path / "wide.ppm", tmp_path / "narrow.ppm"
    wide.write_bytes(encoded_pictures.encode_map(values, 65535))
    preprocess = pets.PREPROCESS.model_copy(update={"black_level": 100, "white_level": 4000})
    Image.fromarray(decode(wide, preprocess, "wide")).save(narrow)
    first, second = run_program(bundle, wide, narrow).stdout.splitlines()
    assert first.split("\t")[1:] == second.split("\t")[1:]
    wide.write_bytes(wide.read_bytes()[:-1])
    assert "ends early" in run_program(bundle, wide).stderr


@compiled
def test_program_refuses_what_it_cannot_read(bundle: Path, tmp_path: Path) -> None:
    """Another size, another format, a cut file, none, or no model: one message, exit code 2."""
    Image.new("RGB", (6, 8)).save(tmp_path / "turned.ppm")
    Image.new("L", (8, 6)).save(tmp_path / "gray.pgm")
    Image.new("RGB", (8, 6)).save(tmp_path / "whole.ppm")
    (tmp_path / "cut.ppm").write_bytes((tmp_path / "whole.ppm").read_bytes()[:-1])
    (tmp_path / "commented.ppm").write_bytes(b"P6 # made by hand\n8 6\n255\n" + bytes(8 * 6 * 3))
    for name, said in {"turned.ppm": "8 x 6 pixels", "gray.pgm": "PPM", "cut.ppm": "ends early", "none.ppm": "PPM"}.items():
        done = run_program(bundle, tmp_path / name)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{name}: " in done.stderr
        assert said in done.stderr
    assert run_program(bundle, tmp_path / "commented.ppm").returncode == 0
    assert run_program(bundle).returncode == 2
    assert run_program(bundle, tmp_path / "whole.ppm").returncode == 0
    assert run_program(bundle, tmp_path / "whole.ppm", given=tmp_path).returncode == 2


@pytest.mark.parametrize("name", ['"; system("x"); "', "a\\", "new\nline", "??/", "Käfer", "%s", "*/", "\t"])
def test_class_names_cannot_leave_their_string(name: str) -> None:
    """Whatever a class is called, its literal is letters, digits, spaces and octal escapes, and spells the name."""
    literal = escape_literal(name)
    assert not set(literal) & set('"?\n%*/\t;()')
    assert literal.encode().decode("unicode_escape").encode("latin-1").decode() == name


def test_same_manifest_gives_the_same_program(bundle: Path) -> None:
    """So a bundle's program can be told from one that somebody changed."""
    manifest = check_bundle(bundle)
    assert (bundle / "cpp" / "example.cpp").read_text() == build_cpp(manifest)["cpp/example.cpp"]
