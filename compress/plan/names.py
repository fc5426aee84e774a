"""Names of methods and baselines in reports and folders."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compress import plugins
from compress.recipe import MethodSection

LONGEST_NAME = 60
"""Characters of a baseline's name that states its options; with more it is numbered."""


def name_methods(methods: Sequence[MethodSection]) -> str:
    """Return what reports call a set of methods, such as `dih(dist)`."""
    return " + ".join(map(_name_method, methods))


def _name_method(method: MethodSection) -> str:
    """Return a method's name, with its logit loss or else its preset where these are not its defaults."""
    known, given = plugins.describe("methods", method.name).options, method.options()
    chosen = [
        str(given[option]) for option in ("logit_loss", "preset") if option in known and given[option] != known[option].default
    ]
    return f"{method.name}({chosen[0]})" if chosen else method.name


def name_baselines(baselines: Sequence[Sequence[MethodSection]]) -> list[str]:
    """Return a name, fit for a folder, for each baseline: that of its methods; where two have the same, with what differs."""
    short = [_slugify(name_methods(methods)) for methods in baselines]
    alike = [[other for other, name in zip(baselines, short, strict=True) if name == own] for own in short]
    long = [
        _slugify(f"{name} {_describe_differences(own, others)}")
        for name, own, others in zip(short, baselines, alike, strict=True)
    ]
    names = []
    for index, (name, with_options) in enumerate(zip(short, long, strict=True)):
        unique = long.count(with_options) == 1 and with_options not in short and len(with_options) <= LONGEST_NAME
        names.append(name if short.count(name) == 1 else with_options if unique else f"{name}-{index}")
    return names


def _describe_differences(own: Sequence[MethodSection], others: Sequence[Sequence[MethodSection]]) -> str:
    """Return the options in which sets of the same methods differ, such as `temperature 2`."""
    differing = []
    for place, method in enumerate(own):
        alternatives = [other[place].options() for other in others]
        differing += [
            f"{option} {_format_option(value)}"
            for option, value in method.options().items()
            if any(other[option] != value for other in alternatives)
        ]
    return " ".join(differing)


def _format_option(value: object) -> str:
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()


def _slugify(text: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", text).strip("-.")
