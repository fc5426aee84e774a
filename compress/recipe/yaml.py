"""Strict YAML for recipes: builtins, the line of every value, and a bound on everything.

YAML 1.2, so `5e-4` is a number and `no` is text. One document; no tags; no repeated keys; dates are text. Aliases and merge
keys are expanded, counted, and may not contain themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from compress.errors import RecipeError

MAX_BYTES = 1 << 16
MAX_VALUES = 10_000
MAX_DEPTH = 32
AFTER_THE_FILE = MAX_BYTES  # more than it has lines
MERGE = "tag:yaml.org,2002:merge"

Place = tuple[str | int, ...]
"""Keys and indices from the root to a value."""


class Mark(NamedTuple):
    """Where a value was written; sorts as the reader meets them."""

    order: int
    text: str
    """`recipes/x.yaml:14`, or the `--set` option."""


class YamlDocument:
    """A tree of dicts, lists and scalars that knows where each of them was written."""

    def __init__(self, value: Any, marks: dict[Place, Mark], problems: list[tuple[Mark, str]]) -> None:
        self.value, self._marks, self.problems = value, marks, problems

    def mark(self, place: Place) -> Mark:
        """Return where a place, or the nearest thing around it, was written."""
        return next(self._marks[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self._marks)

    def find(self, place: Place) -> tuple[Place, str]:
        """Return the place as it is written, where a list of one item may lack its brackets, and its name for people."""
        written: Place = ()
        node, shown = self.value, []
        for part in place:
            if isinstance(part, int) and not isinstance(node, list):
                continue
            if not (isinstance(part, int) and len(node) == 1):
                shown.append(str(part))
            written = (*written, part)
            node = _child(node, part)
        return written, ".".join(shown) or "recipe"

    def replace(self, override: str) -> None:
        """Set one field in place, `field.path=value` with the value in YAML.

        Raises:
            RecipeError: The override cannot be read, or there is no such place.
        """
        where = f"--set {override}"
        path, equals, text = override.partition("=")
        keys = [int(key) if key.isdecimal() else key for key in path.split(".")]
        if not equals or "" in keys:
            raise RecipeError([f"{where}: is not of the form field.path=value"])
        new = read(text.encode(errors="surrogateescape"), lambda _line: where)
        node: Any = self.value
        place: Place = ()
        for index, key in enumerate(keys):
            if isinstance(node, list) and isinstance(key, str) and len(node) == 1:
                node, place = node[0], (*place, 0)
            if not _holds(node, key):
                raise RecipeError([f"{where}: the recipe has no place {'.'.join(map(str, keys[: index + 1]))!r}"])
            place = (*place, key)
            if index + 1 < len(keys):
                if isinstance(node, dict) and node.get(key) is None:
                    node[key] = {}
                    self._marks[place] = Mark(AFTER_THE_FILE, where)
                node = node[key]
        node[keys[-1]] = new.value
        kept = {old: mark for old, mark in self._marks.items() if old[: len(place)] != place}
        self._marks = kept | {(*place, *inner): Mark(AFTER_THE_FILE, where) for inner in new._marks}
        self.problems += new.problems


def read(text: bytes, at: Callable[[int], str]) -> YamlDocument:
    """Read one YAML document.

    Args:
        text: UTF-8.
        at: Names a line, counted from 1, in messages.

    Raises:
        RecipeError: The text is no YAML, not plain data, or beyond a bound.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError([f"{at(1)}: is {len(text)} bytes; a recipe has at most {MAX_BYTES}"])
    reader = _Reader(at)
    try:
        value = reader.value(reader.compose(text.decode()), ())
    except UnicodeDecodeError as error:
        raise RecipeError([f"{at(1)}: is not UTF-8 text (byte {error.start}); save it as UTF-8"]) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = str(error.problem or error.context)
        if "max_depth" in said:  # advice for programmers
            said = f"is nested more than {MAX_DEPTH} deep; write it flatter"
        raise RecipeError([f"{at(mark.line + 1 if mark else 1)}: {said}"]) from error
    except YAMLError as error:
        raise RecipeError([f"{at(1)}: is not YAML: {str(error).splitlines()[0]}"]) from error
    return YamlDocument(value, reader.marks, reader.problems)


class _Reader:
    def __init__(self, at: Callable[[int], str]) -> None:
        self.at = at
        self.yaml = YAML(typ="safe", pure=True)
        self.yaml.max_depth = MAX_DEPTH
        self.left = MAX_VALUES
        self.marks: dict[Place, Mark] = {}
        self.problems: list[tuple[Mark, str]] = []

    def compose(self, text: str) -> Node | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # legal: the later one counts
            root: Node | None = self.yaml.compose(text)
        return root

    def value(self, node: Node | None, place: Place, depth: int = 0) -> Any:
        """Return builtins for a node; aliases are counted each time that they are used."""
        self.left -= 1
        self.marks.setdefault(place, self.mark(node))
        if self.left < 0:
            raise self.refusal(node, f"expands to more than {MAX_VALUES} values; use fewer aliases")
        if depth > MAX_DEPTH:
            raise self.refusal(node, f"is nested more than {MAX_DEPTH} deep, or contains itself")
        if isinstance(node, MappingNode):
            return self.mapping(node, place, depth)
        if isinstance(node, SequenceNode):
            self.expect(node, "seq")
            return [self.value(item, (*place, index), depth + 1) for index, item in enumerate(node.value)]
        return self.scalar(node) if node is not None else None

    def mapping(self, node: MappingNode, place: Place, depth: int) -> dict[str, Any]:
        self.expect(node, "map")
        fields: dict[str, Any] = {}
        for source in _merge(node):
            fields = self.merge(source, place, depth) | fields
        own: set[str] = set()
        for key, value in node.value:
            if key.tag == MERGE:
                continue
            name = self.scalar(key) if isinstance(key, ScalarNode) else None
            mark = self.mark(key)
            if not isinstance(name, str):
                self.problems.append((mark, f"key {getattr(key, 'value', key.tag)!r} is not text; quote it"))
                continue
            if name in own:
                self.problems.append((mark, f"{name}: is repeated; keep one"))
            own.add(name)
            self.marks[*place, name] = mark
            fields[name] = self.value(value, (*place, name), depth + 1)
        return fields

    def merge(self, source: Node, place: Place, depth: int) -> dict[str, Any]:
        fields = self.value(source, place, depth + 1)
        if not isinstance(fields, dict):
            raise self.refusal(source, "a merge key takes a mapping, or a list of mappings")
        return fields

    def scalar(self, node: Node) -> Any:
        implicit = self.yaml.resolver.resolve(ScalarNode, node.value, (True, False))
        tag = str(implicit) if node.tag == implicit else self.expect(node, "str")
        if tag.rpartition(":")[2] not in {"null", "bool", "int", "float"}:
            return self.text(node)
        try:
            return self.yaml.constructor.construct_object(node)
        except ValueError as error:
            raise self.refusal(node, "is a number with too many digits") from error

    def text(self, node: Node) -> str:
        text = str(node.value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.refusal(node, f"{text!r} holds half a character; write it as itself, not with \\u") from error
        return text

    def expect(self, node: Node, kind: str) -> str:
        """Return the tag of a node if it is the one that such a node has without being tagged."""
        if node.tag != f"tag:yaml.org,2002:{kind}":
            raise self.refusal(node, f"tag {node.tag!r} is not allowed; a recipe is plain data")
        return str(node.tag)

    def mark(self, node: Node | None) -> Mark:
        line = node.start_mark.line + 1 if node is not None else 1
        return Mark(line, self.at(line))

    def refusal(self, node: Node | None, problem: str) -> RecipeError:
        return RecipeError([f"{self.mark(node).text}: {problem}"])


def _merge(node: MappingNode) -> Iterator[Node]:
    for key, value in node.value:
        if key.tag == MERGE:
            yield from value.value if isinstance(value, SequenceNode) else (value,)


def _child(node: object, part: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(part)
    return node[part] if isinstance(node, list) and isinstance(part, int) and part < len(node) else None


def _holds(node: object, key: str | int) -> bool:
    if isinstance(node, list):
        return isinstance(key, int) and key < len(node)
    return isinstance(node, dict) and isinstance(key, str)


def write(document: dict[str, Any]) -> str:
    """Return plain data as YAML."""
    text = StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = None  # the order of the fields is the order in which people read
    writer.dump(document, text)
    return text.getvalue()
