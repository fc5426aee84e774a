"""How tests of reports read them: a parsed page, the drawings in it, a terminal's text, and a changed record."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.table import Table

from benchmarks import report
from compress.records import Report

HOSTILE = "<script>alert(1)</script>|`*[x](javascript:y)&amp;"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its text, its elements, and whether every element was closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def changed(record: Report, name: str, **fields: object) -> Report:
    """Return the report with one variant changed."""
    variants = [each.model_copy(update=fields) if each.name == name else each for each in record.variants]
    return record.model_copy(update={"variants": tuple(variants)})


def shown(table: Table, width: int = 100) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table, markup=False, highlight=False)
    return capture.get()


def html_of(record: Report, folder: Path) -> str:
    report.write(record, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def drawings(html: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]  # noqa: S314 (our own drawing)


def of_class(svg: ET.Element, style: str) -> list[ET.Element]:
    return [each for each in svg.iter() if style in (each.get("class") or "").split()]
