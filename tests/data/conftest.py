"""Small data sets in the hub's layout, and in one folder for each class, made of random pictures."""

import gzip
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.encoded_pictures import encode_random as png


@pytest.fixture
def write(tmp_path):
    """Return `write(name, labels, ...)`, which writes one parquet file of pictures and returns the folder."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def add(name, labels, *, names=("cat", "dog"), images=None, label="label", features=None, extra=None):
        images = [png(row) for row in range(len(labels))] if images is None else images
        cells = [cell if cell is None or isinstance(cell, dict) else {"bytes": cell, "path": None} for cell in images]
        columns = {
            "img": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            label: pa.array(labels, pa.int64()),
            **(extra or {}),
        }
        declared = {"img": {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(names)}} if names else {}
        info = {"info": {"features": declared if features is None else features}}
        metadata = {"huggingface": json.dumps(info)} if declared or features else None
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
        return str(tmp_path)

    return add


@pytest.fixture
def folder(write):
    """A folder with six training and three test pictures of cats and dogs."""
    write("train-00000-of-00002.parquet", [0, 1, 0])
    write("train-00001-of-00002.parquet", [1, 0, 1], images=[png(row) for row in (3, 4, 5)])
    return write("test-00000-of-00001.parquet", [1, 0, 1], images=[png(row) for row in (6, 7, 8)])


@pytest.fixture
def pictures(tmp_path):
    """A folder with nine training and four test pictures of cats, dogs and eels, one folder for each class."""
    root = tmp_path / "pictures"
    for split, counts in (("train", (4, 3, 2)), ("test", (1, 2, 1))):
        for name, count in zip(("cat", "dog", "eel"), counts, strict=True):
            place = root / split / name
            place.mkdir(parents=True)
            for number in range(count):
                seed = zlib.crc32(f"{split}{name}{number}".encode())
                (place / f"{number}.png").write_bytes(png(seed))
    return str(root)


@pytest.fixture
def mask_folder(tmp_path):
    """A folder with four training and two test pictures of 12 × 10 pixels, and masks of three classes and 255."""
    root = tmp_path / "mask_folder"
    for split, count in (("train", 4), ("test", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            random = np.random.default_rng([number, count])
            mask = random.choice(np.array([0, 1, 2, 255], np.uint8), (10, 12))
            mask[0, :3] = 0, 1, 2
            picture = random.integers(0, 256, (10, 12, 3), np.uint8)
            Image.fromarray(picture).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("wall\nfloor\nlamp\n")
    return str(root)


@pytest.fixture
def mask_parquet(tmp_path, mask_folder):
    """The pictures and masks of `mask_folder` in parquet files, one for each split."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    root = tmp_path / "mask_parquet"
    root.mkdir()
    for split in ("train", "test"):
        cells = {
            name: [
                {"bytes": path.read_bytes(), "path": None}
                for path in sorted((tmp_path / "mask_folder" / split / kind).iterdir())
            ]
            for name, kind in (("image", "images"), ("annotation", "masks"))
        }
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({name: pa.array(column, kind) for name, column in cells.items()})
        parquet.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return str(root)


@pytest.fixture
def idx_folder(tmp_path):
    """MNIST's four files with 20 training and 10 test images of 6 × 5 pixels in three classes, one of them packed."""
    root = tmp_path / "idx"
    root.mkdir()
    for name, count, pack in (("train", 20, gzip.compress), ("t10k", 10, bytes)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 6, 5), np.uint8)
        images = struct.pack(">4I", 0x803, count, 6, 5) + pixels.tobytes()
        labels = struct.pack(">2I", 0x801, count) + bytes(row % 3 for row in range(count))
        ending = ".gz" if pack is gzip.compress else ""
        (root / f"{name}-images-idx3-ubyte{ending}").write_bytes(pack(images))
        (root / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return str(root)


@pytest.fixture
def csv_file(tmp_path, pictures):
    """The pictures of `pictures` in a CSV file that names path, class and split of each."""
    root = Path(pictures)
    lines = [f"{path.relative_to(root)},{path.parts[-2]},{path.parts[-3]}" for path in sorted(root.rglob("*.png"))]
    (root / "all.csv").write_text("\n".join(["filename,label,split", *lines]) + "\n")
    return str(root / "all.csv")


@pytest.fixture
def write_shard(tmp_path):
    """Return `write_shard(name, files)`, which writes a tar file of {name: content} and returns its folder."""

    def write(name, files):
        path = tmp_path / "shards" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for member, content in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return str(path.parent)

    return write


@pytest.fixture
def shards(write_shard):
    """Two training shards and one for the test; labels are numbers in .cls files, and in one shard in JSON."""
    number = 0
    for name, count, ending in (("train-0000.tar", 4, "cls"), ("train-0001.tar", 5, "json"), ("val-0000.tar", 3, "cls")):
        files = {}
        for place in range(count):
            label = place % 3
            files[f"{place:04}.png"] = png(100 + number)
            files[f"{place:04}.{ending}"] = json.dumps({"label": label} if ending == "json" else label).encode()
            files[f"{place:04}.txt"] = b"a caption"
            number += 1
        folder = write_shard(name, files)
    return folder
