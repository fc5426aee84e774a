"""A console on which names from strangers (files, classes, reports) are shown and not obeyed."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment

from compress.text import escape_commands


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that escapes whatever would command the terminal.

    Args:
        stderr: Whether it writes to stderr.
        width: Columns; default: of the terminal.
    """
    console = Console(stderr=stderr, width=width, emoji=False)  # :a: is a part of a path or an address
    console.push_render_hook(_Escaping())
    return console


class _Escaping(RenderHook):
    """Puts every renderable into one that escapes its text."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return the renderables, escaped."""
        return [_Escaped(each) for each in renderables]


class _Escaped:
    """A renderable whose text is escaped after it was laid out; what rich itself says to the terminal stays."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(escape_commands(segment.text), segment.style)
