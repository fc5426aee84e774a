"""Check at start-up that the packages beside `compress` are ours: others use the names `exporters` and `benchmarks` too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from compress.errors import CompressError


def check_siblings() -> None:
    """Make sure that `exporters` and `benchmarks` are those of this installation; imports neither.

    Raises:
        CompressError: Another package of that name would be imported, or there is none; the message says whose it is.
    """
    home = Path(__file__).parents[2]
    for name in ("exporters", "benchmarks"):
        spec = find_spec(name)
        found = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
        if found is None or found.resolve() != (home / name).resolve():
            raise CompressError(f"the package {name!r} beside {home / 'compress'} is {_find_owner(name, found)}")


def _find_owner(name: str, found: Path | None) -> str:
    if found is None:
        return "missing; install edge-compress again"
    from importlib.metadata import packages_distributions

    owners = [owner for owner in packages_distributions().get(name, ()) if owner != "edge-compress"]
    owner = f"of {', '.join(sorted(set(owners)))}" if owners else "of no installed package, so of a folder on the import path"
    return f"hidden by {found}, {owner}; install edge-compress in an environment of its own (pipx, or python -m venv)"
