"""Parquet in the hub's layout: what is found without being told, and one clear message for everything that is not right."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from compress.data.huggingface import Huggingface
from compress.errors import CompressError, Unreachable
from compress.records import Preprocess
from tests.encoded_pictures import encode_random as png

pa = pytest.importorskip("pyarrow")

RGB = Preprocess(height=6, width=5, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)
REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_parts_are_read_in_order(folder):
    """Rows follow the parts' numbers, with their own labels, and pixels are those that were written."""
    dataset = Huggingface(path=folder).load(RGB)
    for row, image in enumerate([*dataset.train.images, *dataset.test.images]):
        expected = np.random.default_rng(row).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        assert np.array_equal(image, expected)
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.test.labels.tolist() == [1, 0, 1]


def test_class_names_come_from_the_features(folder):
    """The names that the files declare, in label order."""
    assert Huggingface(path=folder).summary()[:3] == (("cat", "dog"), 6, 3)


def test_without_declared_names_classes_are_numbers(write):
    """Plain parquet works: the column of pictures, the column of whole numbers, classes `0`, `1`, `2`."""
    write("train.parquet", [0, 2, 1], names=None)
    assert Huggingface(path=write("test.parquet", [1], names=None)).summary().classes == ("0", "1", "2")


@pytest.mark.parametrize("place", ["data", "plain_text"])
def test_files_may_lie_one_folder_deeper(write, place):
    """The hub's `data/` and a subset's own folder are found."""
    write(f"{place}/train-00000-of-00001.parquet", [0, 1])
    folder = write(f"{place}/test-00000-of-00001-0f1e2d.parquet", [0])
    assert Huggingface(path=folder).summary().train_images == 2


def test_several_subsets_must_be_chosen_from(write):
    """Two folders with the same split are a question, and `subset` is the answer."""
    for place, rows in (("easy", 2), ("hard", 3)):
        write(f"{place}/train.parquet", [0, 1, 0][:rows])
        folder = write(f"{place}/test.parquet", [0])
    with pytest.raises(CompressError, match=r"several folders: easy, hard; choose one as data\.subset"):
        Huggingface(path=folder).summary()
    assert Huggingface(path=folder, subset="hard").summary().train_images == 3


def test_other_splits_are_found_or_named(write):
    """A data set without `test` is tested on its `validation`, which a note says; what has no usual name must be named."""
    write("train.parquet", [0, 1])
    folder = write("validation.parquet", [0])
    summary = Huggingface(path=folder).summary()
    assert summary.test_images == 1
    assert "split 'validation' is what the result is tested on" in summary.notes[0]
    Path(folder, "validation.parquet").rename(Path(folder, "extra.parquet"))
    with pytest.raises(CompressError, match="split 'test' has no files; the folder has the splits extra, train: name one"):
        Huggingface(path=folder).summary()
    assert Huggingface(path=folder, test_split="extra").summary().test_images == 1


def test_without_a_test_split_rows_are_set_apart(write):
    """Most data sets of the hub have `train` alone: each row's number decides, so that further rows change nothing."""
    folder = write("data/train-00000-of-00001.parquet", [0, 1] * 50)
    summary = Huggingface(path=folder).summary()
    assert summary.train_images + summary.test_images == 100
    assert 10 <= summary.test_images <= 40
    assert "data.test_fraction 0.2, data.split_seed 0" in summary.notes[0]
    dataset = Huggingface(path=folder).load(RGB)
    assert len(dataset.test.images) == summary.test_images
    seen = {image.tobytes() for image in dataset.train.images}
    assert not any(image.tobytes() in seen for image in dataset.test.images)
    write("data/train-00000-of-00001.parquet", [0, 1] * 60)
    grown = Huggingface(path=folder).load(RGB).test.images
    assert [image.tobytes() for image in grown][: len(dataset.test.images)] == [
        image.tobytes() for image in dataset.test.images
    ]


LAYOUTS = [
    ("default/{split}/0000.parquet", None),
    ("plain_text/partial-{split}/0000.parquet", None),
    ("en/v1/data/{split}-00000-of-00001.parquet", None),
    ("{split}/part-00000-4f2e.c000.snappy.parquet", None),
    ("{split}/pictures.parquet", None),
    ("a/{split}/{split}-00000-of-00001-0f1e2d.parquet", "a"),
]


@pytest.mark.parametrize(("layout", "subset"), LAYOUTS)
def test_the_usual_layouts_are_read(write, layout, subset):
    """The hub's own conversion, several levels, and what common tools write; hidden folders are no data."""
    write(layout.format(split="train"), [0, 1, 0])
    write(".cache/train/0000.parquet", [1, 1])
    folder = write(layout.format(split="test"), [1, 0])
    assert Huggingface(path=folder, subset=subset).summary()[:3] == (("cat", "dog"), 3, 2)


def test_the_case_of_an_ending_does_not_matter(write):
    """Files that came over another system are found."""
    folder = Path(write("test.parquet", [1, 0]))
    write("train.parquet", [0, 1, 0])
    for path in folder.glob("*.parquet"):
        path.rename(path.with_suffix(".PARQUET"))
    assert Huggingface(path=str(folder)).summary().train_images == 3


def test_parts_in_a_folder_are_read_by_number(write):
    """Ten comes after nine, and a gap is told."""
    for part in range(11):
        write(f"default/train/{part:04}.parquet", [part % 2], images=[png(part)])
    folder = write("default/test/0000.parquet", [1])
    images = Huggingface(path=folder).load(RGB).train.images
    assert [image.tobytes() for image in images] == [
        np.random.default_rng(part).integers(0, 256, (6, 5, 3), dtype=np.uint8).tobytes() for part in range(11)
    ]
    Path(folder, "default/train/0004.parquet").unlink()
    with pytest.raises(CompressError, match=r"split 'train' has parts \[0, 1, 2, 3, 5.* some are missing"):
        Huggingface(path=folder).summary()


LABELS = {
    "texts": ((["dog", "cat", "dog "], pa.string()), ("cat", "dog"), [1, 0, 1], "holds texts: its 2 different ones"),
    "categories": (
        (pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), pa.array(["cat", "dog"])), None),
        ("cat", "dog"), [1, 0, 1], "holds texts",
    ),
    "from one": (([2, 1, 2], pa.int64()), ("1", "2"), [1, 0, 1], "labels begin at 1 and not at 0; the 2 numbers 1 to 2"),
    "with a hole": (([4, 0, 4], pa.int32()), ("0", "4"), [1, 0, 1], "the 2 numbers that occur.*no image has 1, 2, 3"),
    "truth": (([True, False, True], pa.bool_()), ("false", "true"), [1, 0, 1], None),
    "whole floats": (([1.0, 0.0, 1.0], pa.float64()), ("0", "1"), [1, 0, 1], None),
    "two letters": ((["caf\u00e9", "bar", "cafe\u0301"], pa.string()), ("bar", "caf\u00e9"), [1, 0, 1], "Unicode form"),
}  # fmt: skip


def write_labels(write, name, values, kind):
    features = {"img": {"_type": "Image"}}
    column = values if isinstance(values, pa.Array) else pa.array(values, kind)
    rows = len(column)
    return write(name, [0] * rows, label="other", features=features, extra={"label": column})


@pytest.mark.parametrize("name", LABELS)
def test_the_values_that_occur_are_the_classes(write, name):
    """Texts, numbers from any number on, false and true, floats that are whole: no class is invented, and a note says so."""
    (values, kind), classes, labels, note = LABELS[name]
    for split in ("train", "test"):
        folder = write_labels(write, f"{split}.parquet", values, kind)
    summary = Huggingface(path=folder).summary()
    assert summary.classes == classes
    assert Huggingface(path=folder).load(RGB).train.labels.tolist() == labels
    assert summary.train_counts == (1, 2)
    assert bool(summary.notes) == (note is not None)
    assert note is None or re.search(note, " ".join(summary.notes))


NO_LABELS = {
    "fractions": ([0.25, 0.5, 1.0], pa.float32(), r"column 'label' holds fractions such as 0\.25, which are no classes"),
    "names of files": ([f"{row}.png" for row in range(9)], pa.string(), r"holds 9 different texts in 9 rows.*'0\.png'; choose"),
    "unlabelled": ([0, 1, -1], pa.int64(), "holds the label -1 beside 0"),
    "nothing": ([None, None], pa.int64(), "holds no label"),
    "empty texts": (["", "", ""], pa.string(), "holds no label"),
    "one class": ([3, 3, 3], pa.int64(), "holds one class alone, 3, and two classes are needed"),
    "one class and nothing": (["cat", "", None], pa.string(), "one class alone, 'cat', and 2 rows without a label, and two"),
    "one class and a space": (["cat", "cat ", "cat"], pa.string(), "holds one class alone, 'cat'"),
    "a text that is empty": (["cat", "dog", ""], pa.string(), r"split 'train', row 2: has no label in column 'label'"),
}


@pytest.mark.parametrize("name", NO_LABELS)
def test_what_is_no_label_is_refused(write, name):
    """With the column, a value, and what to do."""
    values, kind, message = NO_LABELS[name]
    for split in ("train", "test"):
        folder = write_labels(write, f"{split}.parquet", values, kind)
    with pytest.raises(CompressError, match=message):
        Huggingface(path=folder).summary()


def test_a_class_of_the_test_split_alone_is_told(write):
    """Without declared names, what never occurs in training is no class."""
    write_labels(write, "train.parquet", ["cat", "dog"], pa.string())
    folder = write_labels(write, "test.parquet", ["cat", "eel", "eel"], pa.string())
    with pytest.raises(CompressError, match=r"row 1: label 'eel' is none of the training split's, 'cat', 'dog', as in 2 rows"):
        Huggingface(path=folder).summary()


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [(["1", "2"], [1, 2], "these are texts, so write all in one way"), ([0, 1], ["0", "1"], "these are numbers, so")],
)
def test_labels_of_another_type_are_told(write, train, test, said):
    """The text '1' and the number 1 look alike in a message, and are not."""
    write_labels(write, "train.parquet", train, pa.array(train).type)
    folder = write_labels(write, "test.parquet", test, pa.array(test).type)
    with pytest.raises(CompressError, match=said):
        Huggingface(path=folder).summary()


def test_declared_names_that_are_one_name_are_told(write):
    """Two labels of one name would be two classes that nobody can tell apart."""
    for split in ("train", "test"):
        folder = write(f"{split}.parquet", [0, 1, 2], names=("cat", "dog", "cat "))
    with pytest.raises(CompressError, match="class name 'cat ' stands for label 0 and for label 2"):
        Huggingface(path=folder).summary()


def test_labels_that_begin_at_one_beside_names_are_told(write):
    """The first name is that of label 0, so nothing is guessed."""
    write("train.parquet", [1, 2, 1])
    with pytest.raises(CompressError, match=r"row 1: label 2 is not in 0 \.\. 1; labels begin at 1.*subtract 1"):
        Huggingface(path=write("test.parquet", [1])).summary()


def test_several_columns_must_be_chosen_from(write):
    """Coarse and fine labels are a question, and `label_column` is the answer; one that is no label is refused."""
    features = {"img": {"_type": "Image"}, **{n: {"_type": "ClassLabel", "names": ["a", "b"]} for n in ("fine", "coarse")}}
    for name in ("train.parquet", "test.parquet"):
        folder = write(
            name, [0, 1], label="fine", features=features, extra={"coarse": pa.array([0, 0]), "bag": pa.array([[1], [2]])}
        )
    with pytest.raises(
        CompressError, match=r"several label columns: fine \(int64\), coarse \(int64\); choose one as data\.label_column"
    ):
        Huggingface(path=folder).summary()
    assert Huggingface(path=folder, label_column="coarse").load(RGB).train.labels.tolist() == [0, 0]
    with pytest.raises(
        CompressError, match=r"no label column 'bag'; columns that can be one: fine \(int64\), coarse \(int64\)"
    ):
        Huggingface(path=folder, label_column="bag").summary()


def test_gray_is_an_option(folder):
    """A source says what it decodes to, so a recipe can choose one channel."""
    assert Huggingface(path=folder, channels="gray").channels == "gray"
    assert Huggingface(path=folder).channels == "rgb"


BAD_ROWS = {
    "label": ({"labels": [0, 7]}, r"split 'test', row 1: label 7 is not in 0 \.\. 1"),
    "no label": ({"labels": [0, None]}, r"split 'test', row 1: has no label in column 'label'"),
    "damaged image": (
        {"labels": [0], "images": [b"\x89PNG\r\n\x1a\nrubbish"]},
        "split 'test', row 0, column 'img': cannot be decoded",
    ),
    "no image": ({"labels": [0], "images": [None]}, "row 0, column 'img': holds no image bytes"),
    "only a path": ({"labels": [0], "images": [{"bytes": None, "path": "/etc/passwd"}]}, "row 0.* holds no image bytes"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named(write, name):
    """A label out of range and a picture that cannot be decoded are told with folder, split and row."""
    options, reason = BAD_ROWS[name]
    write("train.parquet", [0, 1])
    folder = write("test.parquet", **options)
    with pytest.raises(CompressError, match=reason) as caught:
        Huggingface(path=folder).load(RGB)
    assert str(caught.value).startswith(folder)


BAD_FILES = {
    "empty split": ({"labels": []}, "split 'test' has no rows"),
    "other classes": (
        {"labels": [0], "names": ["dog", "cat"]},
        "class lists of the splits differ: train has cat, dog; test has dog, cat",
    ),
    "no classes": ({"labels": [0], "names": None}, "test has none"),
    "damaged features": ({"labels": [0], "features": ["img"]}, "declared features cannot be read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_told_by_the_summary_already(write, name):
    """What can be seen without decoding is told by `compress check`."""
    options, reason = BAD_FILES[name]
    write("train.parquet", [0, 1])
    with pytest.raises(CompressError, match=reason):
        Huggingface(path=write("test.parquet", **options)).summary()


def test_a_missing_part_is_told(write):
    """Half a data set is not a data set."""
    write("train-00000-of-00003.parquet", [0, 1])
    write("train-00002-of-00003.parquet", [0, 1])
    with pytest.raises(CompressError, match=r"split 'train' has parts \[0, 2\] of 3"):
        Huggingface(path=write("test.parquet", [0])).summary()


def test_parts_that_disagree_are_told(write):
    """Parts of one split with other class names come from other data."""
    write("train-00000-of-00002.parquet", [0, 1])
    write("train-00001-of-00002.parquet", [0, 1], names=["dog", "cat"])
    with pytest.raises(CompressError, match="declare different features"):
        Huggingface(path=write("test.parquet", [0])).summary()


def test_numbers_that_are_no_classes_are_refused(write):
    """A column of identifiers without names does not become a million classes."""
    write("train.parquet", [5, 4_000_000], names=None)
    with pytest.raises(CompressError, match=r"holds numbers up to 4000000 in 2 rows.*choose another"):
        Huggingface(path=write("test.parquet", [0], names=None)).summary()


@pytest.mark.parametrize("keep", [0, 100, -50])
def test_a_damaged_parquet_file_is_told(folder, keep):
    """An empty or truncated file is named."""
    path = Path(folder) / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CompressError, match=r"test-00000-of-00001\.parquet: is no whole parquet file"):
        Huggingface(path=folder).summary()


def test_images_that_do_not_fit_into_memory_are_refused(folder):
    """Before anything is allocated, the message says how much is needed and how much there is."""
    huge = RGB.model_copy(update={"height": 1_000_000, "width": 1_000_000})
    with pytest.raises(CompressError, match=r"9 images of 1000000 × 1000000 need 25146 GiB of memory, and .* is free"):
        Huggingface(path=folder).load(huge)


def test_a_missing_folder_is_unreachable():
    """A path that is not there has its own exit code, and what looks like a hub id gets a hint."""
    with pytest.raises(Unreachable, match=r"no such folder$"):
        Huggingface(path="/none").summary()
    with pytest.raises(Unreachable, match=r"for a hub dataset give its commit hash as data\.revision"):
        Huggingface(path="owner/name").summary()


@pytest.mark.parametrize(("path", "revision"), [("owner/name", "main"), ("owner/name", REVISION[:7]), ("../../etc", REVISION)])
def test_a_hub_dataset_must_be_pinned(path, revision):
    """Branches, tags, short hashes and paths that are no hub id are refused before any network."""
    with pytest.raises(CompressError, match="give owner/name and a full commit hash"):
        Huggingface(path=path, revision=revision).summary()


@pytest.mark.parametrize("package", ["pyarrow", "huggingface_hub"])
def test_a_missing_package_names_the_extra(folder, package):
    """Without the optional package, the message says what to install."""
    options = {"path": folder} if package == "pyarrow" else {"path": "owner/name", "revision": REVISION}
    script = f"""
import sys
sys.modules[{package!r}] = None
from compress.data.huggingface import Huggingface
from compress.errors import Unreachable
try:
    Huggingface(**{options!r}).summary()
except Unreachable as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (
        result.stdout
        == f"data/huggingface needs the package {package!r}, which is not installed: pip install 'edge-compress[hf]'\n"
    )


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download of two files needs."""

    folder: Path

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path = self.path.partition("?")[0]
        names = sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())
        if path == f"/api/datasets/owner/name/revision/{REVISION}":
            about = {"id": "owner/name", "sha": REVISION, "siblings": [{"rfilename": name} for name in names]}
            content, kind = json.dumps(about).encode(), "application/json"
        elif path == f"/api/datasets/owner/name/tree/{REVISION}":
            files = [(name, (self.folder / name).read_bytes()) for name in names]
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha256(data).hexdigest()}
                for name, data in files
            ]
            content, kind = json.dumps(tree).encode(), "application/json"
        elif path.startswith(f"/datasets/owner/name/resolve/{REVISION}/"):
            content, kind = (self.folder / path.partition(f"{REVISION}/")[2]).read_bytes(), "application/octet-stream"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(write):
    """A hub on this machine that serves one data set."""
    pytest.importorskip("huggingface_hub")
    write("served/data/train-00000-of-00001.parquet", [0, 1, 0, 1])
    write("served/data/extra-00000-of-00001.parquet", [0, 1])
    Hub.folder = Path(write("served/data/test-00000-of-00001.parquet", [1, 0])) / "served"
    (Hub.folder / "name.py").write_text("raise RuntimeError('a loading script ran')")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_pinned_hub_dataset_is_downloaded(hub, tmp_path):
    """Only the parquet files of the two splits are fetched, into the hub's own cache, and they are what is loaded."""
    script = f"""
from compress.data.huggingface import Huggingface
from compress.records import Preprocess
source = Huggingface(path="owner/name", revision={REVISION!r})
print(source.summary()[:3], source.load(Preprocess.model_validate({RGB.model_dump()!r})).test.labels.tolist())
"""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "*"}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout == "(('cat', 'dog'), 4, 2) [1, 0]\n", result.stderr
    fetched = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*/*")}
    assert fetched == {"train-00000-of-00001.parquet", "test-00000-of-00001.parquet"}


def test_an_unknown_hub_dataset_is_unreachable(hub, tmp_path):
    """What the hub does not have is one message and exit code 5."""
    script = f"""
from compress.data.huggingface import Huggingface
from compress.errors import Unreachable
try:
    Huggingface(path="owner/other", revision={REVISION!r}).summary()
except Unreachable as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "*"}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.startswith(f"hub dataset owner/other at {REVISION}: cannot be downloaded ("), result.stderr
