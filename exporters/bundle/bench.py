"""Build `bench.py` of a bundle: one program that times its files, with the programs that also time for `compress bench`.

These are put into it as they are, so that a board that nobody can log in to measures by the same protocol.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from compress import plugins
from compress.records import Manifest

PROGRAM = "bench.py"
RUNNER = ("runner.py", "machine.py", "timer.py")
"""Programs of every job of `benchmarks`."""
_END = '\n\nif __name__ == "__main__":\n    raise SystemExit(main())\n'


def build_bench(manifest: Manifest) -> bytes:
    """Return the program for the runtimes of a bundle's files, the same for the same files and version."""
    names = sorted({file.runtime for file in manifest.files} & {*plugins.list_names("runtimes")})
    runtimes = {name: plugins.describe("runtimes", name) for name in names}
    folder = _find_benchmarks()
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in RUNNER}
    sources |= {f"runtimes/{name}.py": plugin.path.read_text(encoding="utf-8") for name, plugin in runtimes.items()}
    head = (Path(__file__).parent / "programs" / PROGRAM).read_text(encoding="utf-8")
    classes = {
        name: (plugin.attribute, plugins.load("runtimes", name).package.replace("-", "_")) for name, plugin in runtimes.items()
    }
    return "".join([head, f"\n\nCLASSES.update({classes!r})\n", *map(_quote, sources, sources.values()), _END]).encode()


def _find_benchmarks() -> Path:
    """Return the folder of the programs that time; they are read, and nothing of them is imported."""
    spec = find_spec("benchmarks")
    return Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path()


def _quote(name: str, source: str) -> str:
    """Return a statement that puts a source among the programs, readable as it is.

    Raises:
        ValueError: It cannot stand between triple quotes.
    """
    if "'''" in source or not source.endswith("\n"):
        raise ValueError(f"{name}: cannot be quoted; it must hold no ''' and end with a line")
    return f"PROGRAMS[{name!r}] = r'''{source}'''\n"
