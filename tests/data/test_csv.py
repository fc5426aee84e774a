"""Pictures listed in a CSV file: the same data as the folder that it lists, and rows that cannot be refused by their line."""

from pathlib import Path

import numpy as np
import pytest

from compress.data.csv import Csv
from compress.data.folder import Folder
from compress.errors import CompressError, Unreachable
from compress.records import Preprocess

SMALL = Preprocess(height=8, width=8, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_it_is_the_folder_that_it_lists(csv_file, pictures):
    """Images, labels and classes are those of the data source `folder` on the same files."""
    listed, folder = Csv(path=csv_file), Folder(path=pictures)
    assert listed.summary()[:5] == folder.summary()[:5]
    for one, other in zip(listed.load(SMALL), folder.load(SMALL), strict=True):
        assert (one.labels == other.labels).all()
        assert (one.images == other.images).all()


def test_numbers_are_classes_in_their_order_and_a_test_split_is_set_apart(pictures, tmp_path):
    """Class 10 comes after 2; without splits each picture is set apart by its own path, whatever the order of the rows."""
    paths = [path.relative_to(pictures) for path in sorted(Path(pictures).rglob("*.png"))]
    rows = [f'"{path}";{(2, 10)[place % 2]}' for place, path in enumerate(paths)]
    for name, order in (("a.csv", rows), ("b.csv", rows[::-1])):
        (tmp_path / name).write_text("\ufeffimage;class\n" + "\n".join(order), encoding="utf-8")
    one, other = (Csv(path=str(tmp_path / name), root=pictures, delimiter="semicolon") for name in ("a.csv", "b.csv"))
    assert one.summary().classes == ("2", "10")
    assert "no test split is there" in one.summary().notes[-1]
    sets = [{image.tobytes() for image in source.load(SMALL).test.images} for source in (one, other)]
    assert sets[0] == sets[1]
    assert 0 < len(sets[0]) < len(paths)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("filename,label\n../outside.png,cat\ntrain/cat/0.png,dog", CompressError, r":2: '../outside.png' leads out of"),
        ("filename,label\n/etc/hostname,cat\ntrain/cat/0.png,dog", CompressError, r":2: '/etc/hostname' leads out of"),
        ("filename,label\nlink.png,cat\ntrain/cat/0.png,dog", CompressError, r":2: 'link.png' leads out of"),
        ("filename,label\ntrain/cat/0.png,cat\ntrain/cat/9.png,dog", Unreachable, r":3: .*9.png: is no file"),
        ("filename,label\ntrain/cat/0.png,cat,1", CompressError, r":2: has 3 fields, and there are 2 columns"),
        ("filename,label\ntrain/cat/0.png,cat\ntrain/cat/0.png,dog", CompressError, "is 'cat' in one row and 'dog' in another"),
        (
            "filename,label\ntrain/cat/0.png,\ntrain/cat/1.png,a\ntrain/cat/2.png,b",
            CompressError,
            "row 0: has no label in column",
        ),
        (
            "name,label\ntrain/cat/0.png,cat",
            CompressError,
            r"no column is called like that of the images; .*image_column: name, label",
        ),
        ("filename;label\ntrain/cat/0.png;cat", CompressError, "is data.delimiter right"),
        ("filename,label,split\ntrain/cat/0.png,cat,fold7", CompressError, "'fold7' have no usual name"),
        ('filename,label\n"train/cat/0.png,cat\n', CompressError, "is no CSV"),
        ("filename,label\n", CompressError, "has 1 rows"),
        (b"filename,label\n\xff\xfe,cat\n", CompressError, "is no UTF-8 at byte 15"),
    ],
)
def test_what_cannot_be_is_refused_by_its_line(pictures, tmp_path, text, error, message):
    """No path leaves the folder, not by `..`, not as a whole path, not by a link; nothing is guessed."""
    (tmp_path / "outside.png").write_bytes(b"secret")
    (Path(pictures) / "link.png").symlink_to(tmp_path / "outside.png")
    path = Path(pictures) / "some.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=message):
        Csv(path=str(path)).summary()


def test_named_columns_are_taken(csv_file):
    """A recipe names columns; a name that is not there is refused with those that are."""
    found = Csv(path=csv_file, image_column="filename", label_column="split", split_column="split", test_fraction=None)
    assert found.columns["label"] == "split"
    with pytest.raises(CompressError, match=r"data.label_column: .* 0 columns 'kind': filename, label, split"):
        Csv(path=csv_file, label_column="kind").summary()
    assert np.array(Csv(path=csv_file).summary().train_counts).sum() == 9
