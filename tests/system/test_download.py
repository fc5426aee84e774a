"""Downloads: whole and as the checksum says, or not at all; continued where a connection broke."""

import hashlib
import io
import threading
import urllib.request
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from compress.errors import CompressError, Unreachable
from compress.system.download import _StaysSecure, fetch_file

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves `CONTENT` in several unreliable ways, named by the path."""

    cuts = 0
    asked: list = []  # noqa: RUF012 (of the one server)

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Range")))
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            self.end_headers()
        elif self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif self.path == "/none":
            self.send_error(404)
        elif self.path == "/cut" and type(self).cuts > 0:
            type(self).cuts -= 1
            self.answer(begin, stop=begin + 100_000)
        elif self.path == "/forgetful" and begin:
            self.answer(0, partial=False)
        elif self.path == "/endless":
            self.answer(begin, stop=0, claimed=1 << 60)
        else:
            self.answer(begin)

    def answer(self, begin, *, stop=None, partial=None, claimed=None):
        rest = CONTENT[begin:]
        self.send_response(206 if (begin if partial is None else partial) else 200)
        self.send_header("Content-Length", str(claimed or len(rest)))
        self.end_headers()
        self.wfile.write(rest if stop is None else rest[: stop - begin])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        Server.cuts, Server.asked = 0, []
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("way", ["whole", "moved"])
def test_a_file_is_fetched_once(server, tmp_path, way):
    """It arrives whole, by a redirect too, and is not asked for again; digits of its checksum are enough."""
    path = fetch_file(f"{server}/{way}", tmp_path / "a" / "weights.bin", sha256=SHA256[:8])
    assert path.read_bytes() == CONTENT
    asked = len(Server.asked)
    fetch_file(f"{server}/{way}", path, sha256=SHA256)
    assert len(Server.asked) == asked
    assert left(tmp_path) == ["weights.bin"]


def test_a_cut_connection_is_continued(server, tmp_path):
    """What has arrived is not fetched again: every further request begins where the last one ended."""
    Server.cuts = 3
    assert fetch_file(f"{server}/cut", tmp_path / "w", sha256=SHA256).read_bytes() == CONTENT
    assert [begin for _, begin in Server.asked] == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_the_next_run_continues_what_one_gave_up(server, tmp_path):
    """After the last try the part is kept, said, and used by the next call."""
    Server.cuts = 5
    with pytest.raises(Unreachable, match=r"have arrived and are kept.*put it to .*w, or name it as weights: FILE"):
        fetch_file(f"{server}/cut", tmp_path / "w", sha256=SHA256[:4])
    Server.asked.clear()
    assert fetch_file(f"{server}/cut", tmp_path / "w", sha256=SHA256[:4]).read_bytes() == CONTENT
    assert Server.asked[0][1] is not None


def test_a_server_that_cannot_continue_sends_all_of_it(server, tmp_path):
    """Its answer from the start takes the place of the part, and is not put behind it."""
    (tmp_path / f"w.{SHA256[:16]}.download").write_bytes(CONTENT[:1000])
    assert fetch_file(f"{server}/forgetful", tmp_path / "w", sha256=SHA256).read_bytes() == CONTENT


def test_another_file_than_the_named_one_is_refused(server, tmp_path):
    """The message names both checksums, and nothing of the file stays."""
    wrong = "ab" * 32
    with pytest.raises(CompressError, match=rf"{SHA256}, not {wrong}"):
        fetch_file(f"{server}/whole", tmp_path / "w", sha256=wrong)
    assert left(tmp_path) == []


def test_what_is_not_there_says_where_to_put_it(server, tmp_path):
    """A missing file, and no server: one message with the address, and the place for a file that is fetched elsewhere."""
    with pytest.raises(Unreachable, match=r"404.*put it to .*w, or"):
        fetch_file(f"{server}/none", tmp_path / "w", sha256=SHA256)
    with pytest.raises(Unreachable, match=r"cannot be fetched .*put it to .*w, or"):
        fetch_file("http://127.0.0.1:9/w", tmp_path / "w", sha256=SHA256)
    assert left(tmp_path) == []


def test_no_redirect_leads_out_of_the_network(server, tmp_path):
    """A server cannot make us read a file of this machine."""
    with pytest.raises(CompressError, match="not allowed"):
        fetch_file(f"{server}/elsewhere", tmp_path / "w", sha256=SHA256)
    secure = urllib.request.Request("https://one.example/w")
    with pytest.raises(CompressError, match="which is not fetched"):
        _StaysSecure().redirect_request(secure, io.BytesIO(), 302, "Found", HTTPMessage(), "http://one.example/w")


def test_a_file_without_end_is_refused(server, tmp_path):
    """Its stated length is enough to refuse it; the disk does not fill."""
    with pytest.raises(CompressError, match="more than any file of weights"):
        fetch_file(f"{server}/endless", tmp_path / "w", sha256=SHA256)
