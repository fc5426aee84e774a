"""What people are told while a data set is read."""

from __future__ import annotations

from compress.events import Events


class Heard(Events):
    """Remembers what people were told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)
