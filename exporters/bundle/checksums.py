"""The seal of a bundle: `SHA256SUMS` in the form of `sha256sum -c`, over every file but itself.

It shows damage, not forgery: whoever changes a file can also write its new checksum. What a file may do to us is the matter of
`_bundle.check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from compress.errors import CompressError, Unreachable
from compress.system.files import sha256_of

SUMS = "SHA256SUMS"
FOLDERS = ("cpp", "samples")
"""Folders that a bundle may have; they have none themselves."""
MAX_SUMS_BYTES, MAX_FILES = 1 << 20, 1000
_LINE = re.compile(r"([0-9a-f]{64})  ((?:[a-z]{1,20}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,199})")


def seal(bundle: Path) -> None:
    """Write the checksums of every file that is in a bundle."""
    lines = [f"{sha256_of(bundle / name)}  {name}\n" for name in present(bundle) if name != SUMS]
    (bundle / SUMS).write_text("".join(lines), encoding="utf-8")


def present(bundle: Path) -> tuple[str, ...]:
    """Return every file of a bundle, by its path in there, sorted.

    Raises:
        CompressError: There is a link, a folder that does not belong there, or anything else that is no plain file.
        Unreachable: The folder cannot be read.
    """
    found: list[str] = []
    for name in _files(bundle, bundle):
        found.append(name)
        if len(found) > MAX_FILES:
            raise CompressError(f"{bundle}: holds more than {MAX_FILES} files; a bundle has fewer")
    return tuple(sorted(found))


def _files(bundle: Path, folder: Path) -> Iterator[str]:
    try:
        for entry in folder.iterdir():
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise CompressError(f"{entry}: is not a plain file; a bundle has no links")
            if entry.is_file():
                yield entry.relative_to(bundle).as_posix()
            elif folder == bundle and entry.name in FOLDERS:
                yield from _files(bundle, entry)
            else:
                raise CompressError(f"{entry}: is a folder; a bundle has only {' and '.join(FOLDERS)}")
    except OSError as error:
        raise Unreachable(f"{folder}: cannot be read ({error.strerror}); give the folder of a bundle") from error


def check(bundle: Path) -> tuple[str, ...]:
    """Return every file of a bundle, by its path in there; all are listed and have the checksums that are listed.

    Raises:
        CompressError: A file is missing, not listed, or was changed; the message names it.
        Unreachable: A file cannot be read.
    """
    names, path = present(bundle), bundle / SUMS
    if SUMS not in names:
        raise CompressError(f"{path}: is not there; export again, or write it with sha256sum if you trust the bundle")
    if path.stat().st_size > MAX_SUMS_BYTES:
        raise CompressError(f"{path}: is larger than {MAX_SUMS_BYTES >> 20} MiB; get the bundle again")
    listed = dict(_listed(path))
    for name in sorted({*listed, *names} - {SUMS}):
        if name not in names:
            raise CompressError(f"{bundle / name}: {SUMS} lists it, but it is not there; get the bundle again")
        if name not in listed:
            raise CompressError(f"{bundle / name}: is not in {SUMS}; remove what does not belong to the bundle")
        check_sum(bundle / name, listed[name], said_by=SUMS)
    return names


def check_sum(path: Path, sha256: str, *, said_by: str) -> None:
    """Refuse a file that has another checksum.

    Raises:
        CompressError: It has.
        Unreachable: The file cannot be read.
    """
    found = sha256_of(path)
    if found != sha256:
        raise CompressError(f"{path}: has sha256 {found}, {said_by} says {sha256}; it was changed or damaged: get it again")


def _listed(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_bytes().decode("utf-8", errors="replace")
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise CompressError(
                f"{path}:{number}: is not a checksum, two spaces and a name in the bundle; get the bundle again"
            )
        yield found[2], found[1]
    if text and not text.endswith("\n"):
        raise CompressError(f"{path}: does not end in a line; get the bundle again")
