"""Tar shards: what they hold in their order, and shards of strangers that hold what they should not."""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from compress.data.webdataset import Webdataset
from compress.errors import CompressError, Unreachable
from compress.preprocess import decode
from compress.records import Preprocess
from tests.encoded_pictures import encode_random as png

SMALL = Preprocess(height=8, width=8, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_images_and_labels_are_those_of_the_shards(shards):
    """Every picture comes with the label of its own sample, read independently with tarfile."""
    dataset = Webdataset(path=shards).load(SMALL)
    for split, names in ((dataset.train, ("train-0000.tar", "train-0001.tar")), (dataset.test, ("val-0000.tar",))):
        expected = []
        for name in names:
            with tarfile.open(Path(shards) / name) as archive:
                content = {member.name: archive.extractfile(member).read() for member in archive}
            expected += [(content[key], int(key[:4]) % 3) for key in sorted(content) if key.endswith(".png")]
        assert split.labels.tolist() == [label for _, label in expected]
        assert (split.images == np.stack([decode(picture, SMALL, "") for picture, _ in expected])).all()


def test_without_names_of_splits_a_test_split_is_set_apart(write_shard):
    """Shards that are only numbered are one split, of which some samples are set apart by their names."""
    folder = write_shard(
        "0000.tar", {f"{n}.{e}": (png(n) if e == "png" else b"ab"[n % 2 :][:1]) for n in range(20) for e in ("png", "cls")}
    )
    found = Webdataset(path=folder).summary()
    assert found.classes == ("a", "b")
    assert found.train_images + found.test_images == 20
    assert "set apart" in found.notes[-1]


def test_shards_are_fetched_once_and_only_as_pinned(shards, tmp_path, server):
    """A shard behind an address is put into the folder if its checksum is right, and is not asked for again."""
    place = tmp_path / "fetched"
    with pytest.raises(Unreachable, match="make it, and the shards are fetched"):
        Webdataset(path=str(place), urls=("https://example.org/a.tar",), sha256=("0" * 64,)).summary()
    place.mkdir()
    paths = sorted(Path(shards).glob("*.tar"))
    urls = tuple(f"{server}/{path.name}" for path in paths)
    sums = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    with pytest.raises(CompressError, match="it is another file"):
        Webdataset(path=str(place), urls=urls[:1], sha256=("0" * 64,)).summary()
    remote = Webdataset(path=str(place), urls=urls, sha256=sums).summary()
    assert remote[:5] == Webdataset(path=shards).summary()[:5]
    for path in paths:
        path.unlink()
    assert Webdataset(path=str(place), urls=urls, sha256=sums).summary() == remote
    for bad in ("pipe:cat /etc/passwd", "https://example.org/../../x", "file:///etc/passwd.tar"):
        with pytest.raises(CompressError, match=r"is no http\(s\) address of a shard"):
            Webdataset(path=str(place), urls=(bad,), sha256=("0" * 64,)).summary()
    with pytest.raises(CompressError, match="0 checksums for 1 addresses"):
        Webdataset(path=str(place), urls=urls[:1]).summary()


@pytest.fixture
def server(shards):
    """A server of the folder of shards."""
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments):
            """Say nothing."""

    served = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=shards))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


def sample(key, label=b"1", seed=0):
    return {f"{key}.png": png(seed), f"{key}.cls": label}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"x", "a.jpg": b"y", "a.cls": b"1"}, r"sample 'a' has another picture, .png"),
        ({"a.cls": b"1" * (1 << 21), "a.png": b"x"}, "more than the 1048576 that it can have"),
        ({"a.png": b"x"}, "row 0: has no label|holds no label"),
        ({"a.png": b"x", "a.json": b"[" * 100000}, "holds no label"),
        ({"a.png": b"x", "a.json": b'{"label": [1]}'}, "field 'label' holds a list"),
        ({"a.png": b"x", "a.cls": b"\xff"}, "holds no label"),
    ],
)
def test_samples_that_cannot_be_are_refused(write_shard, files, message):
    """The message names shard and sample."""
    folder = write_shard("train-0.tar", files | sample("b") | sample("c", b"0"))
    write_shard("test-0.tar", sample("d"))
    with pytest.raises(CompressError, match=message):
        Webdataset(path=folder).summary()


def test_links_damage_and_compression_are_refused(write_shard, tmp_path):
    """Nothing is unpacked to disk, so that a path out of the folder is a name and nothing more; a link is refused."""
    folder = Path(write_shard("train-0.tar", {**sample("../../escaped", b"0", 3), **sample("/rooted", b"1", 4), **sample("b")}))
    write_shard("test-0.tar", sample("d", b"0"))
    before = sorted(tmp_path.rglob("*"))
    assert Webdataset(path=str(folder)).load(SMALL).train.labels.tolist() == [0, 1, 1]
    assert sorted(tmp_path.rglob("*")) == before
    whole = (folder / "train-0.tar").read_bytes()
    (folder / "train-0.tar").write_bytes(whole[:700])
    with pytest.raises(CompressError, match=r"is damaged|is cut off"):
        Webdataset(path=str(folder)).load(SMALL)
    (folder / "train-0.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(CompressError, match="is no plain tar file"):
        Webdataset(path=str(folder)).summary()
    with tarfile.open(folder / "train-0.tar", "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link, io.BytesIO())
    with pytest.raises(CompressError, match=r"'a.png' is a link or a device"):
        Webdataset(path=str(folder)).summary()
    (folder / "train-0.tar").unlink()
    (folder / "test-0.tar").unlink()
    with pytest.raises(CompressError, match="has no shards"):
        Webdataset(path=str(folder)).summary()
