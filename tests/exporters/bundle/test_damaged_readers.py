"""Every reader of a bundle ends in one sentence, whatever happened to its file: bit flips, cuts, zeros and insertions."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress import records
from compress.errors import CompressError
from compress.records import Manifest
from compress.system.files import hash_file
from exporters.bundle.bundle import check_bundle, write_checksums
from exporters.bundle.programs import predict
from exporters.bundle.samples import read_archive
from exporters.onnx import Onnx
from exporters.openvino import Openvino
from exporters.verification.interface import read_interface
from tests.exporters import pets

pytestmark = pytest.mark.slow

LONGEST = 1500
"""Letters of a message, the path apart, that a terminal can show."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pets")
    return pets.write(folder / "bundle", [pets.export(folder, Onnx()), pets.export(folder, Openvino())])


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "bundle"))


def damages(content: bytes, count: int) -> Iterator[bytes]:
    """Yield damaged copies, the same in every run."""
    random = np.random.default_rng(len(content))
    for number in range(count):
        damaged, place = bytearray(content), int(random.integers(len(content)))
        if number % 5 == 0:
            damaged = damaged[:place]
        elif number % 5 == 1:
            damaged[place : place + 40] = bytes(min(40, len(content) - place))
        elif number % 5 == 2:
            damaged[place:place] = random.integers(0, 256, 5, dtype=np.uint8).tobytes()
        else:
            for _ in range(number % 5 - 2):
                damaged[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
        yield bytes(damaged)


def seal(bundle: Path) -> None:
    """Make every checksum right that the manifest and `SHA256SUMS` hold, as far as the manifest can be read."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["samples_sha256"] = hash_file(bundle / "samples.npz")
    for file in manifest["files"]:
        file["parts"] = {name: hash_file(bundle / name) for name in file["parts"]}
        file["size_bytes"] = sum((bundle / name).stat().st_size for name in file["parts"])
    path.write_text(json.dumps(manifest))
    write_checksums(bundle)


def check_one_sentence(call: Callable[[], object]) -> bool:
    """Call a reader; return whether it refused, which it must do with one error of ours of a length that people read."""
    try:
        call()
    except (CompressError, predict.Refused) as error:
        said = str(error)
    else:
        return False
    assert len(said) < LONGEST, said[:200]
    return True


@pytest.mark.parametrize(
    "name", ["samples.npz", "samples/expected.json", "student-fp32.xml", "student-fp32.onnx", "samples/01-dog.png"]
)
def test_a_damaged_file_of_a_bundle_is_refused_in_one_sentence(name: str, bundle: Path) -> None:
    """Checksums were made right, so the readers themselves meet the damage: those of verify and those of predict.py."""
    content, refused = (bundle / name).read_bytes(), 0
    manifest = records.read(bundle / "manifest.json", Manifest)
    contract, _ = predict.read_manifest(bundle)
    for damaged in damages(content, 60):
        (bundle / name).write_bytes(damaged)
        seal(bundle)
        sealed = json.loads((bundle / "manifest.json").read_text())
        readers: list[Callable[[], Any]] = [lambda: check_bundle(bundle)]
        if name.endswith((".xml", ".onnx")):
            readers.append(lambda: read_interface(bundle / name))
        else:
            readers.append(lambda: read_archive(bundle / "samples.npz", manifest))
            readers.append(lambda: [*predict.read_pictures(
                bundle, predict.read_samples(bundle, sealed, sealed["files"][0], contract), contract  # noqa: B023 (called below)
            )])  # fmt: skip
        refused += sum(map(check_one_sentence, readers)) > 0
    assert refused > 20


def test_a_damaged_manifest_is_refused_in_one_sentence(bundle: Path) -> None:
    """By verify and by predict.py, whatever the checksums say."""
    path = bundle / "manifest.json"
    content, refused = path.read_bytes(), 0
    for damaged in damages(content, 100):
        path.write_bytes(damaged)
        write_checksums(bundle)
        refused += (
            sum([check_one_sentence(lambda: check_bundle(bundle)), check_one_sentence(lambda: predict.read_manifest(bundle))])
            > 0
        )
    assert refused > 60


def zip_of(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return made.getvalue()


def header(text: str) -> bytes:
    """Return the beginning of a .npy file with this description of the array."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1")


def change_zip(content: bytes, local: int, central: int, value: int) -> bytes:
    """Change a field of two bytes in the first local and in the first central header."""
    changed = bytearray(content)
    changed[local : local + 2] = struct.pack("<H", value)
    place = content.index(b"PK\x01\x02") + central
    changed[place : place + 2] = struct.pack("<H", value)
    return bytes(changed)


GOOD = {"images": b"", "labels": b"", "logits": b""}
TRICKS = {
    "header that is no Python": zip_of(**GOOD | {"images": header("{'descr': '|u1', (\n")}),
    "header that ends in a string": zip_of(**GOOD | {"images": header("{'descr': '''")}),
    "header of a thousand brackets": zip_of(**GOOD | {"images": header("(" * 9000)}),
    "shape beyond all numbers": zip_of(
        **GOOD | {"images": header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**30},)}}")}
    ),
    "shape below 0": zip_of(**GOOD | {"images": header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}")}),
    "objects": zip_of(**GOOD | {"images": header("{'descr': '|O', 'fortran_order': False, 'shape': (6,)}") + b"x" * 64}),
    "encrypted": change_zip(zip_of(**GOOD), 6, 8, 1),
    "newer zip": change_zip(zip_of(**GOOD), 4, 6, 99),
    "unknown compression": change_zip(zip_of(**GOOD), 8, 10, 77),
    "members twice": zip_of(**GOOD)[:0] + zip_of(**GOOD).replace(b"labels", b"images"),
    "no members": zip_of(),
    "nothing": b"",
    "no zip": b"PK" * 99,
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_of_archives_are_refused_in_one_sentence(trick: str, bundle: Path) -> None:
    """What zipfile, numpy and numpy's parser of headers raise is the reader's matter, in predict.py as well."""
    (bundle / "samples.npz").write_bytes(TRICKS[trick])
    seal(bundle)
    manifest, (contract, files) = json.loads((bundle / "manifest.json").read_text()), predict.read_manifest(bundle)
    assert check_one_sentence(lambda: check_bundle(bundle))
    assert check_one_sentence(lambda: predict.read_samples(bundle, manifest, files[0], contract))


@pytest.mark.parametrize("field", ["file", "label", "predicted", "nonesuch"])
def test_endless_names_do_not_fill_the_terminal(field: str, bundle: Path) -> None:
    """A name of a hundred thousand letters is refused in a message that one can read."""
    path = bundle / "samples" / "expected.json"
    document = json.loads(path.read_text())
    document["pictures"][0][field if field != "nonesuch" else "n" * 100_000] = "x" * 100_000
    path.write_text(json.dumps(document))
    seal(bundle)
    assert check_one_sentence(lambda: check_bundle(bundle))
