"""Find plug-ins by file name, describe their options, and load them.

A plain file in a plug-in folder is a plug-in; a file with a leading underscore is its contract or helper. `methods/dist.py`
is the method `dist` and holds the class `Dist`. A model family holds one function per network: `models/resnet_cifar.py`
gives `resnet_cifar.resnet20`. Other distributions add modules, or `module:function` and `module:Class`, through entry points
named after the groups below. A recipe may also name a network's function by `module:function` itself.

The options of a plug-in are the keyword-only arguments of its class or function: one word is the argument, the recipe's
field and the report's column. They are read from the source **without importing it**, so `compress check`, `list` and
`schema` stay fast and run no foreign code. For that, annotations may use only the names exported by `compress.recipe` (and
builtins), defaults must be literals, and the Google-style `Args:` section describes each option. Functions for networks of
others are read more kindly: what they call classes and channels is found by name or place, a type that is not known takes any
value, and what has another default than a literal is no option.

Code of others runs only when a recipe names it, and only from modules that Python finds as it was started: nothing adds the
folder of a recipe to the path. `compress check` and `run` say which it is before they import it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, entry_points, metadata, requires
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from compress.errors import CompressError, Unreachable
from compress.text import shorten

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Kind = Literal["methods", "models", "data", "tasks", "exporters", "runtimes", "devices", "trackers"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_PACKAGES: Mapping[Kind, str] = {
    "methods": "compress.methods",
    "models": "compress.models",
    "data": "compress.data",
    "tasks": "compress.tasks",
    "exporters": "exporters",
    "runtimes": "benchmarks.runtimes",
    "devices": "benchmarks.devices",
    "trackers": "compress.tracking",
}

DISTRIBUTION = "edge-compress"

SHORT = 4
"""A name of so few letters is no beginning of another one."""

MOST_IMPORTS = 8
"""So many modules are followed from where a name is imported to where it is defined."""

ANY_VALUE = "Any"
"""The annotation of an option of others that states no type."""

REQUIRED = object()
"""Marks an option without a default."""

_LOADED_OTHERS: set[str] = set()
"""Packages and modules of others from which plug-ins were loaded into this process, by their names on top."""

CLASSES = ("classes", "num_classes", "n_classes", "nb_classes", "num_labels", "class_count")
CHANNELS = ("channels", "in_channels", "in_chans", "input_channels", "num_channels", "n_channels", "in_ch")
"""What functions for networks call the number of classes, and that of the images' colour channels."""

REFERENCE_PATTERN = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
"""Of `module:function`."""


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
    origin: Literal["ours", "entry point", "reference"] = "ours"
    """Whose code it is: ours, that of another distribution's entry point, or what a recipe names by `module:function`."""


def list_names(kind: Kind) -> list[str]:
    """Return the names of all plug-ins of a kind, sorted."""
    return sorted(_collect_plugins(kind))


def describe(kind: Kind, name: str) -> Plugin:
    """Return what is known of one plug-in without importing it.

    Raises:
        CompressError: There is no such plug-in; the message lists near misses or all names.
    """
    table = _collect_plugins(kind)
    if name in table:
        return table[name]
    if kind == "models" and ":" in name:
        return _describe_reference(name)
    raise CompressError(f"{kind}: there is no {name!r}; {suggest_name(name, table)}")


def load(kind: Kind, name: str) -> Any:
    """Import a plug-in and return its class or function.

    Raises:
        CompressError: There is no such plug-in, or the code of others cannot be imported.
        Unreachable: A package that the plug-in needs is not installed.
    """
    plugin = describe(kind, name)
    if plugin.origin != "ours":
        _LOADED_OTHERS.add(plugin.module.partition(".")[0])
    try:
        return getattr(importlib.import_module(plugin.module), plugin.attribute)
    except ModuleNotFoundError as error:
        raise Unreachable(explain_missing_package(f"{kind}/{name}", error)) from error
    except (Exception, SystemExit) as error:
        if plugin.origin == "ours":
            raise
        raise CompressError(f"{kind}/{name}: {plugin.path} cannot be imported: {describe_failure(error)}; mend it") from error


def list_loaded_others() -> list[str]:
    """Return the packages and modules of others whose code was loaded as plug-ins, by their names on top."""
    return sorted(_LOADED_OTHERS)


def describe_failure(error: BaseException) -> str:
    """Return kind, message and place of an error that the code of others raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
    return f"{describe_error(error)}{place}"


def describe_error(error: BaseException) -> str:
    """Return kind and first line of an exception, also of one that has no text, or whose text cannot be made."""
    if isinstance(error, SystemExit):
        return f"it ends the program with sys.exit({'' if error.code is None else shorten(repr(error.code))})"
    said = traceback.format_exception_only(type(error), error)[-1 if isinstance(error, SyntaxError) else 0]
    kind, _, message = said.strip().partition("\n")[0].partition(": ")
    return f"{kind.rpartition('.')[2]}: {shorten(message) or 'no message'}"


def suggest_name(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Return `did you mean 'x'?` for a near miss, and the list of what exists otherwise.

    A name without its family (`resnet18` for `torchvision.resnet18`), in other letters, with other dashes, or cut short is a
    near miss.
    """
    wanted = _simplify(name.rpartition(".")[2])
    members = {each: _simplify(each.rpartition(".")[2]) for each in sorted(known)}
    same = [each for each, member in members.items() if member == wanted]
    longer = [each for each, member in members.items() if len(wanted) > SHORT and member.startswith(wanted)]
    near = same or longer or get_close_matches(name, list(known), n=1) or _find_near_members(name, known)
    near = near[:3]
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(sorted(known))}"


def _simplify(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _find_near_members(name: str, known: Collection[str]) -> list[str]:
    """Return the names whose last part is nearest to that of a name, if one is near."""
    members = {each.rpartition(".")[2] for each in known if "." in each}
    near = get_close_matches(name.lower().rpartition(".")[2], members, n=1, cutoff=0.75)
    return sorted(each for each in known if each.rpartition(".")[2] in near)[:3]


def list_sources(plugin: Plugin) -> list[Path]:
    """Return the files on which a plug-in depends, as far as that can be known: of others, all modules of their package."""
    top = plugin.module.partition(".")[0]
    package = next((folder for folder in plugin.path.parents if folder.name == top), None)
    return [plugin.path] if plugin.origin == "ours" or package is None else sorted(package.rglob("*.py"))


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
        for plugin in _read_entry_point(kind, point.name, point.value, where):
            if plugin.name in table:
                raise CompressError(f"{where}: {table[plugin.name].module} already has {plugin.name!r}; rename one of them")
            table[plugin.name] = plugin
    return table


def _read_entry_point(kind: Kind, name: str, value: str, where: str) -> Iterator[Plugin]:
    """Yield the plug-ins of an entry point that names a module, or the one that it names by `module:attribute`.

    Raises:
        CompressError: It cannot be read, or holds no such thing.
        Unreachable: There is no such module.
    """
    module, _, attribute = (part.strip() for part in value.partition(":"))
    origin = _find_source(module)
    if origin is None:
        raise Unreachable(f"{where} names {value!r}, and no module {module!r} is installed; reinstall or remove its package")
    if not attribute:
        for plugin in _read_plugins(kind, name, module, origin):
            yield replace(plugin, origin="entry point")
        return
    yield replace(_read_reference(kind, name, module, attribute, where=where), origin="entry point")


def _describe_reference(name: str) -> Plugin:
    """Return what is known of a network that a recipe names by `module:function`, without importing it.

    Raises:
        CompressError: It is no such name, or the module holds nothing of that name, or is Python's own.
        Unreachable: Python finds no such module.
    """
    where = f"models: {name!r}"
    if re.fullmatch(REFERENCE_PATTERN, name) is None:
        raise CompressError(f"{where}: is no module:function; write for example my_package.networks:small")
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise CompressError(f"{where}: is a part of Python itself, which holds no networks; name a function of your own module")
    return _read_reference("models", name, module, attribute, where=where)


def _read_reference(kind: Kind, name: str, module: str, attribute: str, *, where: str, depth: int = 0) -> Plugin:
    """Return the plug-in that a module defines under a name, or imports from another one.

    Raises:
        CompressError: The module cannot be read, or holds nothing of that name.
        Unreachable: Python finds no such module.
    """
    path = _find_source(module)
    if path is None or path.suffix != ".py":
        raise Unreachable(
            f"{where}: Python finds no module {module!r} with a source; pip install its package, or name its folder in "
            "PYTHONPATH"
        )
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise CompressError(f"{where}: {path}: cannot be read: {error}; mend it") from error
    node = next((each for each in reversed(tree.body) if _defines(each, attribute)), None)
    if node is not None:
        return _describe_node(kind, name, node, path, module=module, attribute=attribute)
    failures: list[CompressError] = []
    for each in _find_imports(tree, attribute, module if path.name == "__init__.py" else module.rpartition(".")[0]):
        try:
            if depth < MOST_IMPORTS:
                found = _read_reference(kind, name, each.module, each.attribute, where=where, depth=depth + 1)
                return replace(found, module=module, attribute=attribute) if kind == "models" else found
        except CompressError as error:
            failures += [error] if each.is_named else []
    if failures:
        raise failures[0]
    known = [each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name[0] != "_"]
    raise CompressError(
        f"{where}: {path} defines no {attribute!r}; {suggest_name(attribute, known) if known else 'it holds no functions'}"
    )


def _defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name


class _Import(NamedTuple):
    """Where a module may have a name from."""

    module: str
    attribute: str
    """What the name is there."""
    is_named: bool
    """Whether the name itself is imported; else all names are."""


def _find_imports(tree: ast.Module, name: str, package: str) -> Iterator[_Import]:
    """Yield the modules from which a module may import a name."""
    for node in reversed(tree.body):
        if isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*around, *([node.module] if node.module else [])])
            for alias in node.names:
                if name == (alias.asname or alias.name) or alias.name == "*":
                    yield _Import(source, name if alias.name == "*" else alias.name, alias.name != "*")


def _describe_node(kind: Kind, name: str, node: ast.stmt, path: Path, *, module: str, attribute: str) -> Plugin:
    """Return the plug-in that a statement defines; of a plain assignment no more than its name is known."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return Plugin(kind, name, module, attribute, "", "", {}, path, "reference")
    constructor = _find_constructor(node) if isinstance(node, ast.ClassDef) else node
    texts = [ast.get_docstring(each) or "" for each in (node, constructor) if each is not None]
    described = next((text for text in texts if "Args:" in text), "")
    options = _read_foreign_options(constructor, described) if kind == "models" else _read_options(constructor, described)
    return Plugin(kind, name, module, attribute, _take_first_sentence(texts[0]), texts[0], options, path, "reference")


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
                read = _read_options if module.startswith(f"{_PACKAGES[kind]}.") else _read_foreign_options
                summary = _take_first_sentence(text)
                yield Plugin(kind, f"{name}.{node.name}", module, node.name, summary, text, read(node, text), path)
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


def _read_foreign_options(function: ast.FunctionDef | None, docstring: str) -> dict[str, Option]:
    """Return the options of a function for networks that others wrote: all but classes and channels."""
    if function is None:
        return {}
    arguments = function.args
    placed = [each for each in (*arguments.posonlyargs, *arguments.args) if each.arg not in ("self", "cls")]
    first = len(placed) - len(arguments.defaults)
    defaults: list[tuple[ast.arg, ast.expr | None]] = [
        (each, arguments.defaults[index - first] if index >= first else None) for index, each in enumerate(placed)
    ]
    names = [each.arg for each in (*placed, *arguments.kwonlyargs)]
    given = find_sizes(names, placed=[each.arg for each in placed], takes_any=arguments.kwarg is not None)
    described = _read_arguments(docstring)
    options = {}
    for argument, default in (*defaults, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)):
        if argument.arg in given or argument in arguments.posonlyargs:
            continue
        try:
            value = REQUIRED if default is None else ast.literal_eval(default)
        except (ValueError, TypeError):
            continue  # an object: the function's own business
        annotation = ast.unparse(argument.annotation) if argument.annotation else ANY_VALUE
        options[argument.arg] = Option(annotation, value, described.get(argument.arg, ""))
    return options


def find_sizes(
    names: Collection[str], *, placed: list[str], takes_any: bool = False
) -> dict[str, Literal["classes", "channels"]]:
    """Return which arguments of a function for networks take the number of classes, and that of channels.

    Args:
        names: Of all its arguments.
        placed: Of those that can be given by place: where no name is known, the first two are meant.
        takes_any: Whether it takes further arguments of any name; where no name is known, `num_classes` is then meant.
    """
    classes = next((name for name in CLASSES if name in names), None)
    channels = next((name for name in CHANNELS if name in names), None)
    rest = [name for name in placed if name not in (classes, channels)]
    if classes is None and takes_any:
        classes = "num_classes"
    elif classes is None and rest:
        classes = rest.pop(0)
        channels = channels or (rest.pop(0) if rest else None)
    found: dict[str, Literal["classes", "channels"]] = {}
    if classes is not None:
        found[classes] = "classes"
    if channels is not None:
        found[channels] = "channels"
    return found


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
