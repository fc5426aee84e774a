"""Shards of WebDataset: tar files in which the files of one sample stand together under one name.

`0001.jpg` and `0001.cls` are a sample: a picture and the number, or the name, of its class; `0001.json` may stand in the place
of the latter. The shards lie in a folder, and their names say which split they are of: `train-0000.tar`, `val-0000.tar`. Where
they are to be fetched, `urls` has their addresses and `sha256` their checksums; they are put into the folder, once.

The tar files are read with Python's own `tarfile`, and nothing is unpacked to disk: of the package `webdataset` only the order
of files is needed, and it runs commands that addresses may hold (`pipe:`) and unpickles files. What is neither a picture nor a
label is passed over; links and devices are refused; a label is no longer than it can be. Shards are not compressed, so that the
pictures, which are, can be passed over where only labels are wanted.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from compress.data import Dataset, EncodedDataset, EncodedSplit, Summary, decode_to_memory
from compress.data._rows import Divided, Table, divide_rows
from compress.data._splits import find_split
from compress.errors import CompressError, Unreachable
from compress.preprocess import MAX_BYTES, SUFFIXES
from compress.recipe import Fraction, Listing, Sha256, Text, WholeNumber
from compress.records import Preprocess
from compress.system.download import SCHEMES, fetch_file

LABELS = (".cls", ".json")
"""Endings of files that hold a label; the first counts where both are there."""
MOST_LABEL_BYTES = 1 << 20
"""Of a file that holds a label."""


class Sample(NamedTuple):
    """One picture of a shard."""

    shard: Path
    key: str
    """Name of its files without their endings."""
    label: int | str | None

    @property
    def name(self) -> str:
        """What it is called in messages, and for good."""
        return f"{self.shard.name}/{self.key}"


class Webdataset:
    """A folder of tar shards, or shards that are fetched into one.

    Args:
        path: The folder, relative to the recipe or to where the command runs.
        urls: Addresses of shards that are fetched into it unless they are there.
        sha256: Their checksums, one for each.
        train: Which shards are for training and validation, as `train-*.tar`; default: those whose names say so, or all.
        test: Which are used once, at the end; default: those whose names say so (`test`, else `val`).
        label_field: Of labels in JSON files, the field that holds it.
        classes: Names of the classes, where labels are their places; default: the labels themselves.
        test_fraction: Share of each class that is set apart for the test where there are no such shards; default 0.2.
        split_seed: Seed of that split; the recipe's `seed` does not change it.
        channels: What pictures are decoded to.
    """

    def __init__(
        self,
        *,
        path: Text,
        urls: Listing[Text] = (),
        sha256: Listing[Sha256] = (),
        train: Text | None = None,
        test: Text | None = None,
        label_field: Text = "label",
        classes: Listing[Text] | None = None,
        test_fraction: Fraction | None = None,
        split_seed: WholeNumber = 0,
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path, self.urls, self.sha256 = Path(path), tuple(urls), tuple(sha256)
        self.train, self.test, self.label_field, self.names = train, test, label_field, classes
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes from the labels in the shards, which are fetched first where they are remote.

        Raises:
            CompressError: A shard is no tar file, holds what it should not, or a sample has no label.
            Unreachable: The folder is not there, or a shard cannot be fetched or read.
        """
        return self._read()[1].summarize()

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all pictures in memory, decoded and resized.

        Raises:
            CompressError: As in `summary`; or a picture cannot be decoded, and the message names it; or they do not fit.
            Unreachable: As in `summary`.
        """
        return decode_to_memory(self.load_encoded(), preprocess)

    def load_encoded(self) -> EncodedDataset:
        """Return the pictures as they are in the shards.

        Raises:
            CompressError: As in `summary`.
            Unreachable: As in `summary`.
        """
        samples, divided = self._read()
        files = {shard.relative_to(self.path).as_posix(): shard for shard in dict.fromkeys(each.shard for each in samples)}
        train, test = (
            EncodedSplit(labels, partial(_read_pictures, samples, rows))
            for rows, labels in ((divided.train, divided.train_labels), (divided.test, divided.test_labels))
        )
        return EncodedDataset(train, test, files, repr([divided.train.tolist(), divided.test.tolist()]))

    def _read(self) -> tuple[list[Sample], Divided]:
        """Return every sample, in the order of the shards, and which are of which split."""
        self._fetch()
        roles = self._find_roles()
        samples = [sample for shard in roles for sample in _list_samples(shard, self.label_field)]
        values = [sample.label for sample in samples]
        if not all(isinstance(value, int) for value in values if value is not None):
            values = [None if value is None else str(value) for value in values]
        splits = None if len(set(roles.values())) == 1 else [roles[sample.shard] for sample in samples]
        keys = [sample.name for sample in samples]
        table = Table(str(self.path), "label", values, keys, "the shard and name of each sample", splits, self.names)
        return samples, divide_rows(table, fraction=self.test_fraction, seed=self.split_seed)

    def _fetch(self) -> None:
        """Fetch the shards that are not there yet."""
        if not self.path.is_dir():
            what = "make it, and the shards are fetched into it" if self.urls else "give the one with the shards as data.path"
            raise Unreachable(f"{self.path}: there is no such folder; {what}")
        if len(self.urls) != len(self.sha256):
            raise CompressError(
                f"data.sha256: has {len(self.sha256)} checksums for {len(self.urls)} addresses; give one for each"
            )
        names = [PurePosixPath(urlsplit(url).path).name for url in self.urls]
        for url, name, sha256 in zip(self.urls, names, self.sha256, strict=True):
            if urlsplit(url).scheme not in SCHEMES or not re.fullmatch(r"[\w][\w.-]*\.tar", name) or names.count(name) > 1:
                raise CompressError(f"data.urls: {url}: is no http(s) address of a shard NAME.tar with a name of its own")
            fetch_file(url, self.path / name, sha256=sha256)

    def _find_roles(self) -> dict[Path, str]:
        """Return the shards in the order of their names, and the split of each.

        Raises:
            CompressError: There are none, or their names do not say which split they are of.
        """
        shards = sorted(path for path in self.path.rglob("*.tar") if not path.name.startswith("."))
        outside = [path for path in shards if not path.resolve().is_relative_to(self.path.resolve())]
        if outside:
            raise CompressError(f"{outside[0]}: is a link that leads out of {self.path}; put the shard itself there")
        if not shards:
            packed = next(self.path.rglob("*.t*gz"), None)
            why = f"; {packed.name} is compressed: unpack it to .tar" if packed else ""
            raise CompressError(f"{self.path}: has no shards (*.tar){why}")
        roles = {shard: self._find_role(shard) for shard in shards}
        unknown = [shard for shard, role in roles.items() if not role]
        if len(unknown) == len(shards):
            return dict.fromkeys(shards, "train")
        if unknown and self.train is None and self.test is None:
            raise CompressError(
                f"{unknown[0]}: its name does not say which split it is of, as others do; name it train-, test- or val-, or "
                "set data.train and data.test"
            )
        return {shard: role for shard, role in roles.items() if role}

    def _find_role(self, shard: Path) -> str:
        """Return the split that a shard's name says, or nothing."""
        place = PurePosixPath(shard.relative_to(self.path).as_posix())
        if self.train is not None or self.test is not None:
            patterns = {"train": self.train, "test": self.test}
            return next((role for role, pattern in patterns.items() if pattern is not None and place.match(pattern)), "")
        words = [word for word in re.split(r"[\W\d_]+", place.with_suffix("").as_posix()) if word]
        return next((role for role in ("train", "test", "validation") if find_split(role, words) is not None), "")


def _open(shard: Path) -> tarfile.TarFile:
    """Return a shard that is read as it lies there.

    Raises:
        CompressError: It is no plain tar file.
        Unreachable: It cannot be read.
    """
    try:
        return tarfile.open(shard, mode="r:")
    except tarfile.TarError as error:
        raise CompressError(f"{shard}: is no plain tar file ({error}); shards are not compressed: unpack it") from error
    except OSError as error:
        raise Unreachable(f"{shard}: cannot be read ({error.strerror})") from error


def _iterate_files(shard: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, str, str]]:
    """Yield every file of a shard, with the name of its sample and its ending.

    Raises:
        CompressError: The shard is damaged, or holds a link or a device.
    """
    with _open(shard) as archive:
        try:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else all of a large shard are kept
                if member.isdir():
                    continue
                if not member.isreg() or member.size < 0:
                    raise CompressError(f"{shard}: {member.name!r} is a link or a device; a shard holds files alone")
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if stem:  # else hidden
                    yield archive, member, f"{folder}/{stem}" if folder else stem, f".{ending.lower()}"
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise CompressError(f"{shard}: is damaged ({error}); get it again") from error
        except OSError as error:
            raise Unreachable(f"{shard}: cannot be read ({error.strerror})") from error


def _list_samples(shard: Path, field: str) -> Iterator[Sample]:
    """Yield the samples of a shard in order; only their labels are read.

    Raises:
        CompressError: A sample has two pictures or a name that came before, or a label cannot be read.
    """
    labels: dict[str, int | str | None] = {}
    pictures: dict[str, str] = {}
    for archive, member, key, ending in _iterate_files(shard):
        where = f"{shard}: {member.name!r}"
        if ending in SUFFIXES:
            if key in pictures:
                raise CompressError(f"{where}: sample {key!r} has another picture, {pictures[key]}; mend the shard")
            if member.size > MAX_BYTES:
                raise CompressError(f"{where}: has {member.size} bytes, more than any picture; mend the shard")
            pictures[key] = ending
        elif ending in LABELS:
            label = _read_label(_read(archive, member, shard, MOST_LABEL_BYTES), ending, field, where)
            if ending == LABELS[0] or labels.get(key) is None:
                labels[key] = label
    for key in pictures:
        yield Sample(shard, key, labels.get(key))


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path, most: int) -> bytes:
    if member.size > most:
        raise CompressError(f"{shard}: {member.name!r} has {member.size} bytes, more than the {most} that it can have")
    try:
        file = archive.extractfile(member)
        content = b"" if file is None else file.read(most)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise CompressError(f"{shard}: is cut off in {member.name!r} ({error}); get it again") from error
    except OSError as error:
        raise Unreachable(f"{shard}: cannot be read ({error.strerror})") from error
    if len(content) != member.size:
        raise CompressError(f"{shard}: is cut off in {member.name!r}; get it again")
    return content


def _read_label(content: bytes, ending: str, field: str, where: str) -> int | str | None:
    """Return a label: a number, or a name.

    Raises:
        CompressError: It is no text, or no JSON with that field.
    """
    try:
        text = content.decode("utf-8").strip()
        if ending == LABELS[0]:
            return int(text) if re.fullmatch(r"\d{1,9}", text) else text or None
        found: Any = json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CompressError(f"{where}: holds no label ({error}); mend it") from error
    value = found.get(field) if isinstance(found, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise CompressError(f"{where}: field {field!r} holds a {type(value).__name__}, which is no class (data.label_field)")
    return value


def _read_pictures(samples: Sequence[Sample], rows: NDArray[np.int64]) -> Iterator[tuple[str, bytes]]:
    """Yield the pictures of some rows, which are in the order of the shards."""
    wanted: dict[Path, set[str]] = {}
    for row in rows.tolist():
        wanted.setdefault(samples[row].shard, set()).add(samples[row].key)
    for shard, keys in wanted.items():
        for archive, member, key, ending in _iterate_files(shard):
            if key in keys and ending in SUFFIXES:
                yield f"{shard}: {member.name!r}", _read(archive, member, shard, MAX_BYTES)
