"""Find plug-ins by file name, describe their options, and load them.

A plain file in a plug-in folder is a plug-in; a file with a leading underscore is its contract or helper. `methods/dist.py`
is the method `dist` and holds the class `Dist`. A model family holds one function per network: `models/resnet_cifar.py`
gives `resnet_cifar.resnet20`. Other distributions add modules through entry points named after the groups below.

The options of a plug-in are the keyword-only arguments of its class or function: one word is the argument, the recipe's
field and the report's column. They are read from the source **without importing it**, so `compress check`, `list` and
`schema` stay fast and run no foreign code. For that, annotations may use only the names exported by `compress.recipe` (and
builtins), defaults must be literals, and the Google-style `Args:` section describes each option.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, entry_points, metadata, requires
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from compress.errors import CompressError, Unreachable

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Kind = Literal["methods", "models", "data", "exporters", "runtimes", "devices"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_PACKAGES: Mapping[Kind, str] = {
    "methods": "compress.methods",
    "models": "compress.models",
    "data": "compress.data",
    "exporters": "exporters",
    "runtimes": "benchmarks.runtimes",
    "devices": "benchmarks.devices",
}

DISTRIBUTION = "edge-compress"

REQUIRED = object()
"""Marks an option without a default."""


@dataclass(frozen=True)
class Option:
    """One keyword-only argument of a plug-in, as its source states it."""

    annotation: str
    default: Any
    description: str


@dataclass(frozen=True)
class Plugin:
    """A plug-in as far as it can be known without importing it."""

    kind: Kind
    name: str
    module: str
    attribute: str
    summary: str
    docstring: str
    options: Mapping[str, Option]
    path: Path
    """Its source."""


def list_names(kind: Kind) -> list[str]:
    """Return the names of all plug-ins of a kind, sorted."""
    return sorted(_collect_plugins(kind))


def describe(kind: Kind, name: str) -> Plugin:
    """Return what is known of one plug-in without importing it.

    Raises:
        CompressError: There is no such plug-in; the message lists near misses or all names.
    """
    table = _collect_plugins(kind)
    if name not in table:
        raise CompressError(f"{kind}: there is no {name!r}; {suggest_name(name, table)}")
    return table[name]


def load(kind: Kind, name: str) -> Any:
    """Import a plug-in and return its class or function.

    Raises:
        CompressError: There is no such plug-in.
        Unreachable: A package that the plug-in needs is not installed.
    """
    plugin = describe(kind, name)
    try:
        module = importlib.import_module(plugin.module)
    except ModuleNotFoundError as error:
        raise Unreachable(explain_missing_package(f"{kind}/{name}", error)) from error
    return getattr(module, plugin.attribute)


def suggest_name(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Return `did you mean 'x'?` for a near miss, and the list of what exists otherwise."""
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"


def list_extra(extra: str) -> list[Requirement]:
    """Return the packages that an extra of this distribution brings; none where the distribution is not installed."""
    from packaging.requirements import Requirement

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    conditional = [requirement for requirement in map(Requirement, lines) if requirement.marker is not None]
    return [
        requirement
        for requirement in conditional
        if _is_needed(requirement, extra) and not _is_needed(requirement, "")  # else it is needed without the extra, too
    ]


def _is_needed(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _find_extra(package: str) -> str | None:
    """Return the first extra of this distribution that brings a package, by the name under which it is imported."""
    try:
        extras = metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return None
    brought = {extra: {requirement.name.replace("-", "_") for requirement in list_extra(extra)} for extra in extras}
    return next((extra for extra, packages in brought.items() if package in packages), None)


def explain_missing_package(where: str, error: ModuleNotFoundError) -> str:
    """Return the message for an optional package that is not installed."""
    package = (error.name or str(error)).partition(".")[0]
    extra = _find_extra(package)
    wanted = package if extra is None else f"{DISTRIBUTION}[{extra}]"
    return f"{where} needs the package {package!r}, which is not installed: pip install '{wanted}'"


@cache
def _collect_plugins(kind: Kind) -> dict[str, Plugin]:
    own = importlib.util.find_spec(_PACKAGES[kind])
    if own is None or not own.submodule_search_locations:
        raise Unreachable(f"the folder of {kind} ({_PACKAGES[kind]}) is not installed; reinstall edge-compress")
    table: dict[str, Plugin] = {}
    for path in sorted(Path(own.submodule_search_locations[0]).glob("[!_]*.py")):
        for plugin in _read_plugins(kind, path.stem, f"{_PACKAGES[kind]}.{path.stem}", path):
            table[plugin.name] = plugin
    for point in entry_points(group=f"compress.{kind}"):
        where = f"entry point {point.name!r} of compress.{kind}"
        origin = _find_source(point.value)
        if origin is None:
            raise Unreachable(f"{where} names {point.value!r}, which is no installed module; reinstall or remove its package")
        for plugin in _read_plugins(kind, point.name, point.value, origin):
            if plugin.name in table:
                raise CompressError(f"{where}: {table[plugin.name].module} already has {plugin.name!r}; rename one of them")
            table[plugin.name] = plugin
    return table


def _find_source(module: str) -> Path | None:
    """Return the file of a module without importing the packages around it, which `find_spec` alone would do."""
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    for part in inner:
        if spec is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _read_plugins(kind: Kind, name: str, module: str, path: Path) -> Iterator[Plugin]:
    try:
        yield from _parse_plugins(kind, name, module, path)
    except (SyntaxError, ValueError) as error:
        raise CompressError(f"{path}: cannot be read as a plug-in: {error}; mend it or remove its package") from error


def _parse_plugins(kind: Kind, name: str, module: str, path: Path) -> Iterator[Plugin]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    about = ast.get_docstring(tree) or ""
    if kind == "models":
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                text = ast.get_docstring(node) or ""
                yield Plugin(
                    kind,
                    f"{name}.{node.name}",
                    module,
                    node.name,
                    _take_first_sentence(text),
                    text,
                    _read_options(node, text),
                    path,
                )
        return
    wanted = "".join(word.capitalize() for word in name.split("_"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == wanted:
            text = ast.get_docstring(node) or ""
            yield Plugin(
                kind,
                name,
                module,
                wanted,
                _take_first_sentence(about),
                about,
                _read_options(_find_constructor(node), text),
                path,
            )
            return
    raise CompressError(f"{path}: a plug-in named {name!r} must hold the class {wanted!r}")


def _find_constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    found = (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    return next(found, None)


def _read_options(function: ast.FunctionDef | None, docstring: str) -> dict[str, Option]:
    if function is None:
        return {}
    described = _read_arguments(docstring)
    options = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else "object"
        value = REQUIRED if default is None else ast.literal_eval(default)
        options[argument.arg] = Option(annotation, value, described.get(argument.arg, ""))
    return options


def _read_arguments(docstring: str) -> dict[str, str]:
    """Return the descriptions of a Google-style `Args:` section."""
    lines = cleandoc(docstring).splitlines()
    if "Args:" not in lines:
        return {}
    described: dict[str, str] = {}
    current = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        name, colon, text = line.strip().partition(":")
        if line.startswith("    ") and not line.startswith("     ") and colon and name.isidentifier():
            current, described[name] = name, text.strip()
        elif current and line.strip():
            described[current] += " " + line.strip()
    return described


def _take_first_sentence(docstring: str) -> str:
    return docstring.partition("\n\n")[0].replace("\n", " ").strip()
