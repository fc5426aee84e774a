"""Ask the agent on a board, which is pushed there when it is not there yet."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shlex
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.devices import _board
from benchmarks.devices._remote.transport import Conversation, Lost, Transport, clip, converse, end, read_said
from compress.errors import Unreachable

NO_FOLDER, NO_AGENT, NO_PYTHON, CUT = 91, 92, 93, 94
NOT_STARTED = (126, 127)
"""Exit statuses of our shell commands on a board, and those of the shell itself for a program that it cannot start."""
STATUSES = frozenset({NO_FOLDER, NO_AGENT, NO_PYTHON, CUT, *NOT_STARTED})
"""With which they end on purpose, so that the command did run there."""
ENTER = 'umask 077; cd "${HOME:-.}"'
SILENT_SECONDS = 60.0
"""A board that says nothing for so long is lost; a follower says something every five seconds."""
_MAIN = "from board.verbs import main\nmain()\n"


class AgentFailed(Unreachable):
    """The agent could not do what it was asked for."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@cache
def pack_agent() -> tuple[str, bytes]:
    """Return the agent as a zip file, the same for the same source, and its name on the board."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), _MAIN)
        for path in sorted(Path(str(_board.__file__)).parent.glob("*.py")):
            entry = zipfile.ZipInfo(f"board/{path.name}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    whole = content.getvalue()
    return f"agent-{hashlib.sha256(whole).hexdigest()[:16]}.zip", whole


class Agent:
    """The agent in a folder of a board.

    Args:
        transport: What leads there.
        folder: Ours, from the home folder there.
        python: The Python that runs it.
    """

    def __init__(self, transport: Transport, folder: str, python: str = "python3") -> None:
        self.transport, self._folder, self._python = transport, folder, python

    def ask(
        self, verb: str, request: dict[str, Any], send: Callable[[Conversation], None] | None = None,
        *, seconds: float = SILENT_SECONDS,
    ) -> dict[str, Any]:  # fmt: skip
        """Return the one answer to a request.

        Raises:
            Lost: The connection was lost or did not come about.
            Unreachable: The board has no Python, no room, or answers what is no answer.
        """
        with self.talk(verb, request, send, seconds=seconds) as (_, answer):
            return answer

    @contextmanager
    def talk(
        self,
        verb: str,
        request: dict[str, Any],
        send: Callable[[Conversation], None] | None = None,
        *,
        seconds: float = SILENT_SECONDS,
    ) -> Iterator[tuple[Conversation, dict[str, Any]]]:
        """Give the conversation that follows on a request, and its first answer.

        Args:
            verb: Of `benchmarks.devices._board`.
            request: What it needs.
            send: Writes what follows on the request; it is called again where the agent had to be pushed first.
            seconds: A board that says nothing for so long is lost.

        Raises:
            Lost: The connection was lost or did not come about.
            Unreachable: The board has no Python, no room, or answers what is no answer.
        """
        for is_last in (False, True):
            with converse(self.transport, self._write_call(verb), seconds=seconds) as (conversation, said):
                conversation.write(json_line(request))
                answer = self._read_first(conversation, send)
                if answer is not None:
                    yield conversation, check_answer(answer)
                    return
                end(conversation.process)
                if conversation.process.returncode != NO_AGENT or is_last:
                    raise self._explain(conversation.process.returncode, read_said(said))
            self._push()

    def _read_first(self, conversation: Conversation, send: Callable[[Conversation], None] | None) -> dict[str, Any] | None:
        """Return the first answer; what follows on a request is sent once the agent says that it runs."""
        running = conversation.read_document()
        if running is None:
            return None
        if send is not None:
            send(conversation)
        return conversation.read_document()

    def _write_call(self, verb: str) -> str:
        folder, agent, python = shlex.quote(self._folder), pack_agent()[0], shlex.quote(self._python)
        return (
            f"{ENTER}; mkdir -p {folder} && cd {folder} || exit {NO_FOLDER}; [ -f {agent} ] || exit {NO_AGENT}; "
            f"command -v {python} >/dev/null || exit {NO_PYTHON}; exec {python} {agent} {verb}"
        )

    def _push(self) -> None:
        name, content = pack_agent()
        script = (
            f"{ENTER}; cd {shlex.quote(self._folder)} && cat >.{name}.$$ && [ $(wc -c <.{name}.$$) -eq {len(content)} ] && "
            f"mv .{name}.$$ {name} || {{ rm -f .{name}.$$; exit {CUT}; }}"
        )
        with converse(self.transport, script, seconds=SILENT_SECONDS) as (conversation, said):
            conversation.write(content)
            conversation.close()
            end(conversation.process, seconds=SILENT_SECONDS)
            if conversation.process.returncode != 0:
                raise self._explain(conversation.process.returncode, read_said(said))

    def _explain(self, status: int, said: str) -> Unreachable:
        known = self.transport.explain(status, said)
        if known is not None:
            return known
        last = clip(said.splitlines()[-1]) if said else "it said nothing"
        if status == NO_FOLDER:
            return Unreachable(f"the folder {self._folder} cannot be made there ({last}); give another with the option folder")
        if status == CUT:
            full = "No space left" in said
            return Unreachable(f"its disk is full ({last}); free space there") if full else Lost(f"was cut off ({last})")
        if status in NOT_STARTED:
            return Unreachable(f"{self._python} cannot be started there ({last}); look at it by hand")
        if status == NO_PYTHON:
            return Unreachable(
                f"there is no {self._python} there; install one, on Debian and Raspberry Pi OS: sudo apt install python3"
            )
        return Unreachable(f"its Python ended with status {status} and no answer ({last}); it must be 3.7 or newer")


def json_line(document: dict[str, Any]) -> bytes:
    """Return a document as one line."""
    return json.dumps(document).encode("ascii") + b"\n"


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is no error.

    Raises:
        AgentFailed: The agent could not do what it was asked for.
    """
    if "error" not in answer:
        return answer
    text, kind, number = clip(answer["error"]), clip(answer.get("type")), answer.get("errno")
    if number in _DISK:
        raise AgentFailed(
            f"its disk is full ({text}); free space there, or remove what is ours with compress device clean", kind
        )
    raise AgentFailed(f"could not do it: {kind}: {text}", kind)


def require(document: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """Return a field of an answer.

    Raises:
        Unreachable: It is missing or of another type: the agent is not ours.
    """
    value = document.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Unreachable(f"answers {name} with {clip(value)}, which none of our agents does; look at it by hand")
    return value
