"""Write and check the checksums of a bundle: `SHA256SUMS` in the form of `sha256sum -c`, over every file but itself.

They show damage, not forgery: whoever changes a file can also write its new checksum. `check_bundle` guards against files that
could do harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from compress.errors import CompressError, Unreachable
from compress.system.files import hash_file

SUMS = "SHA256SUMS"
FOLDERS = ("cpp", "samples")
"""Folders that a bundle may have; they have none themselves."""
MAX_SUMS_BYTES, MAX_FILES = 1 << 20, 1000
_LINE = re.compile(r"([0-9a-f]{64})  ((?:[a-z]{1,20}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,199})")


def write_checksums(bundle: Path) -> None:
    """Write the checksums of every file in a bundle.

    Raises:
        CompressError: It holds something that is no plain file.
        Unreachable: It cannot be read.
    """
    lines = [f"{hash_file(bundle / name)}  {name}\n" for name in list_files(bundle) if name != SUMS]
    (bundle / SUMS).write_text("".join(lines), encoding="utf-8")


def list_files(bundle: Path) -> tuple[str, ...]:
    """List every file of a bundle by its path in there, sorted.

    Raises:
        CompressError: There is a link, a folder that does not belong there, or anything else that is no plain file.
        Unreachable: The folder cannot be read.
    """
    found: list[str] = []
    for name in _walk_files(bundle, bundle):
        found.append(name)
        if len(found) > MAX_FILES:
            raise CompressError(f"{bundle}: holds more than {MAX_FILES} files; a bundle has fewer")
    return tuple(sorted(found))


def _walk_files(bundle: Path, folder: Path) -> Iterator[str]:
    try:
        for entry in folder.iterdir():
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise CompressError(f"{entry}: is not a plain file; a bundle has no links")
            if entry.is_file():
                yield entry.relative_to(bundle).as_posix()
            elif folder == bundle and entry.name in FOLDERS:
                yield from _walk_files(bundle, entry)
            else:
                raise CompressError(f"{entry}: is a folder; a bundle has only {' and '.join(FOLDERS)}")
    except OSError as error:
        raise Unreachable(f"{folder}: cannot be read ({error.strerror}); give the folder of a bundle") from error


def check_checksums(bundle: Path) -> tuple[str, ...]:
    """Check that every file of a bundle is listed with its checksum, and that every listed file is there.

    Returns:
        Every file, by its path in the bundle.

    Raises:
        CompressError: A file is missing, not listed, or was changed; the message names it.
        Unreachable: A file cannot be read.
    """
    names, path = list_files(bundle), bundle / SUMS
    if SUMS not in names:
        raise CompressError(f"{path}: is not there; export again, or write it with sha256sum if you trust the bundle")
    if path.stat().st_size > MAX_SUMS_BYTES:
        raise CompressError(f"{path}: is larger than {MAX_SUMS_BYTES >> 20} MiB; get the bundle again")
    listed = dict(_read_sums(path))
    for name in sorted({*listed, *names} - {SUMS}):
        if name not in names:
            raise CompressError(f"{bundle / name}: {SUMS} lists it, but it is not there; get the bundle again")
        if name not in listed:
            raise CompressError(f"{bundle / name}: is not in {SUMS}; remove what does not belong to the bundle")
        check_checksum(bundle / name, listed[name], source=SUMS)
    return names


def check_checksum(path: Path, sha256: str, *, source: str) -> None:
    """Refuse a file that has another checksum.

    Args:
        path: The file.
        sha256: The right checksum.
        source: Where that stands, for the message.

    Raises:
        CompressError: It has another one.
        Unreachable: The file cannot be read.
    """
    found = hash_file(path)
    if found != sha256:
        raise CompressError(f"{path}: has sha256 {found}, {source} says {sha256}; it was changed or damaged: get it again")


def _read_sums(path: Path) -> Iterator[tuple[str, str]]:
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
