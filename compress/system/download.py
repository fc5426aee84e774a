"""Download a file over HTTP once, whole and as its checksum says, and continue where a cut connection left it.

What arrives lies beside its place under a temporary name until it is complete and its checksum is right, so a file that has its
name is the right one. A server that cannot continue sends the file from its start. No credentials are sent. Redirects are
followed, but none leads from `https` to anything else.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from compress.errors import CompressError, Unreachable
from compress.events import Events, Task
from compress.system.files import hash_file, writable
from compress.text import format_bytes

SCHEMES = ("https", "http")
TIMEOUT_SECONDS = 60
TRIES = 5
"""Connections that may break before the download is given up; each continues where the last one ended."""
MOST_BYTES = 1 << 34
_PART_BYTES = 1 << 20
_ACCEPTABLE = 200, 206
_RANGE_REFUSED = 416


class _StaysSecure(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not out of TLS."""

    def redirect_request(  # noqa: PLR0917 (urllib's own)
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request for the new place.

        Raises:
            CompressError: It is one that must not be followed.
        """
        kind = urlsplit(newurl).scheme
        if kind not in SCHEMES or (urlsplit(req.full_url).scheme == "https" and kind != "https"):
            raise CompressError(f"{req.full_url}: leads to {newurl}, which is not fetched; give the address of the file itself")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_file(url: str, path: Path, *, sha256: str, events: Events | None = None) -> Path:
    """Return a file that is there already, or download it.

    Args:
        url: Where it is.
        path: Where it shall lie.
        sha256: Its checksum, or the first digits of it.
        events: Where progress goes.

    Raises:
        CompressError: What arrives has another checksum, or is too large; nothing is kept.
        Unreachable: The server cannot be reached or does not have it; what has arrived is kept to be continued. Or the disk is
            full.
    """
    if path.is_file():
        return path
    partial = path.with_name(f"{path.name}.{sha256[:16]}.download")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _fetch_all(url, path, partial, events or Events())
    found = hash_file(partial)
    if not found.startswith(sha256):
        partial.unlink()
        raise CompressError(
            f"{url}: what arrived has sha256 {found}, not {sha256}: it is another file, or was changed on the way; nothing was "
            "kept: correct the checksum, or get the file from somewhere else"
        )
    with writable(path):
        partial.replace(path)
    return path


def _fetch_all(url: str, path: Path, partial: Path, events: Events) -> None:
    """Fetch the rest of a file, with a new connection for each that breaks."""
    for tried in range(1, TRIES + 1):
        try:
            return _fetch_rest(url, partial, events)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or tried == TRIES:
                raise Unreachable(f"{url}: the server answers {error.code} ({error.reason}); {_advise(url, path)}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            broke = partial.is_file() and partial.stat().st_size > 0
            if tried == TRIES or not broke:
                kept = f", of which {format_bytes(partial.stat().st_size)} have arrived and are kept" if broke else ""
                raise Unreachable(f"{url}: cannot be fetched{kept} ({reason}); {_advise(url, path)}") from error
    return None


def _advise(url: str, path: Path) -> str:
    return f"on a machine without network, fetch that file elsewhere and put it to {path}, or name it as weights: FILE ({url})"


def _fetch_rest(url: str, partial: Path, events: Events) -> None:
    """Fetch what is missing of a file.

    Raises:
        ConnectionError: The connection ended before the file did.
        CompressError: It is larger than any file of weights.
    """
    begun = partial.stat().st_size if partial.is_file() else 0
    headers = {"User-Agent": "edge-compress", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers | ({"Range": f"bytes={begun}-"} if begun else {}))  # noqa: S310 (the recipe's check lets http and https pass only)
    try:
        answer = urllib.request.build_opener(_StaysSecure()).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_REFUSED:
            raise
        error.close()  # nothing is missing, or it is another file by now: the checksum tells
        if begun and _is_whole(error, begun):
            return
        partial.unlink(missing_ok=True)
        raise ConnectionError("the server cannot continue the file") from error
    with answer:
        begun = begun if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else begun + int(length)
        if total is not None and total > MOST_BYTES:
            raise CompressError(f"{url}: is {format_bytes(total)}, more than any file of weights; give another address")
        name = urlsplit(url).path.rpartition("/")[2] or "file"
        with (
            events.task(f"fetch {name}", total or 0, begun) as task,
            writable(partial),
            partial.open("ab" if begun else "wb") as file,
        ):
            arrived = _copy(answer, file, begun, task, url)
    if total is not None and arrived < total:
        raise ConnectionError(f"the connection ended after {arrived} of {total} bytes")


def _is_whole(error: urllib.error.HTTPError, begun: int) -> bool:
    """Return whether a server that refused to continue says that there is nothing behind what has arrived."""
    return (error.headers.get("Content-Range") or "").rpartition("/")[2] == str(begun)


def _copy(answer: Any, file: IO[bytes], arrived: int, task: Task, url: str) -> int:
    """Write what a server sends, and return how many bytes there are by then.

    Raises:
        CompressError: There is no end to it.
    """
    try:
        while some := answer.read1(_PART_BYTES):
            file.write(some)
            arrived += len(some)
            task.advance(len(some))
            if arrived > MOST_BYTES:
                raise CompressError(f"{url}: is more than {format_bytes(MOST_BYTES)}; give another address")
    finally:
        file.flush()
        os.fsync(file.fileno())
    return arrived
