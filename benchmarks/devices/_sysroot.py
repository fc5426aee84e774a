"""Make a folder with another architecture's Python, numpy and runtimes, and the emulator that runs them, without root rights.

Debian's packages are taken with `apt-get`, whose state lies in the folder, so the machine's own is left alone; they are
unpacked and not installed. Runtimes come from the package index with `pip download`, in the versions that this machine has, so
that the architecture alone differs; where it has none for an architecture, Debian's own are taken.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.devices._device import Say
from compress import plugins
from compress.errors import Unreachable, Unwritable
from compress.system.files import writable, write_whole
from compress.text import format_bytes

SUITE, PYTHON = "trixie", "3.13"
"""The release of Debian, and the Python in it."""
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Keys that sign its lists, which hold the checksums of its packages."""
NEWEST_GLIBC = 41
"""Of this release: 2.41. Wheels for it or for an older one run there."""
NEEDED_BYTES = 1 << 30
"""While it is made: packages, their lists, and what is unpacked of them."""
RECORD, LAYOUT = "prepared.json", 1
PROOF = "import runpy, sys; runpy.run_path(sys.argv[1])[sys.argv[2]].prepare(); print(sys.modules[sys.argv[3]].__version__)"
"""Program that imports a runtime, named by its file, its class and its name."""


@dataclass(frozen=True)
class Architecture:
    """A kind of processor, and where its programs come from."""

    debian: str
    """Debian's name of it."""
    emulator: str
    """Program in Debian's `qemu-user`."""
    cpu: str
    """Processor that is emulated."""
    libraries: str
    """Folder of its libraries in `usr/lib`."""
    packages: tuple[str, ...]
    """Debian's packages, with all that they need."""
    wheels: str
    """Its name in the package index; empty where that has no runtimes for it."""
    runtimes: tuple[str, ...]


ARCHITECTURES: Mapping[str, Architecture] = {
    "aarch64": Architecture(
        "arm64", "qemu-aarch64", "cortex-a76", "aarch64-linux-gnu", ("python3-minimal", "libpython3-stdlib", "libstdc++6"),
        "aarch64", ("onnxruntime", "openvino"),
    ),
    "armv7": Architecture(
        "armhf", "qemu-arm", "cortex-a7", "arm-linux-gnueabihf",
        ("python3-minimal", "libpython3-stdlib", "python3-numpy", "python3-onnxruntime"), "", ("onnxruntime",),
    ),
}  # fmt: skip
"""What can be emulated. Both processors are a Raspberry Pi's: that of the 5, and that of the first 2."""


@dataclass(frozen=True)
class Sysroot:
    """The folder of an architecture."""

    name: str
    """A key of `ARCHITECTURES`."""
    folder: Path

    @property
    def architecture(self) -> Architecture:
        """What it is of."""
        return ARCHITECTURES[self.name]

    def make_command(self, *arguments: str) -> list[str]:
        """Return the command that runs its Python with some arguments."""
        root = self.folder / "root"
        emulator = [str(self.folder / self.architecture.emulator), "-cpu", self.architecture.cpu, "-L", str(root)]
        return [*emulator, str(root / "usr" / "bin" / f"python{PYTHON}"), *arguments]

    def make_environment(self) -> dict[str, str]:
        """Return the variables of its Python, which has nothing to do with those of ours."""
        kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
        return kept | {"PYTHONPATH": str(self.folder / "site"), "PYTHONNOUSERSITE": "1", "LC_ALL": "C.UTF-8"}


def find_sysroot(name: str) -> Sysroot:
    """Return where the folder of an architecture lies, or will lie: in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Sysroot(name, cache.absolute() / "edge-compress" / f"qemu-{name}")


def find_fault(sysroot: Sysroot) -> str:
    """Return why a folder is not what is wanted; empty where it is."""
    found = read_record(sysroot)
    if not found:
        return "is not prepared"
    wanted = _describe_wanted(sysroot.architecture)
    changed = [name for name in wanted if found.get("wanted", {}).get(name) != wanted[name]]
    return f"was prepared with other {' and '.join(changed)} than this machine has now" if changed else ""


def read_record(sysroot: Sysroot) -> dict[str, Any]:
    """Return what was written when a folder was made; empty where it is not there, or not whole."""
    try:
        found = json.loads((sysroot.folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no folder, or of another program
        return {}
    return found if isinstance(found, dict) else {}


def make_sysroot(sysroot: Sysroot, say: Say) -> None:
    """Make the folder of an architecture, and prove it, unless it is there already.

    Raises:
        Unreachable: A program, packages or room for them are missing, or what was made does not work.
    """
    with writable(sysroot.folder):
        sysroot.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(sysroot.folder.with_suffix(".lock")):
        if not find_fault(sysroot):
            say(f"{sysroot.folder} is as it should be; nothing was done")
            return
        _require_programs()
        free = shutil.disk_usage(sysroot.folder.parent).free
        if free < NEEDED_BYTES:
            room = f"{format_bytes(NEEDED_BYTES)} while it is made, and {format_bytes(free)} are free"
            raise Unwritable(f"{sysroot.folder}: needs {room}; free some, or set XDG_CACHE_HOME to another folder")
        with write_whole(sysroot.folder) as fresh:
            _fill(Sysroot(sysroot.name, fresh), say)


def _fill(sysroot: Sysroot, say: Say) -> None:
    """Download, unpack and prove all that belongs in a folder, and write its record."""
    folder, kind = sysroot.folder, sysroot.architecture
    packed = folder / "packed"
    packed.mkdir(parents=True)
    say(f"{kind.emulator}, Python {PYTHON} and its libraries, from {MIRROR} {SUITE}")
    _unpack_packages(sysroot, packed)
    if kind.wheels:
        wanted = _list_wheels(kind)
        say(f"{', '.join(wanted)} for {kind.wheels}, from the package index")
        _unpack_wheels(wanted, kind.wheels, packed, folder / "site")
    downloaded = measure_bytes(packed)
    shutil.rmtree(packed)
    say("trying the runtimes; the first time takes longest")
    works = prove(sysroot)
    record = {"wanted": _describe_wanted(kind), "works": works, "downloaded_bytes": downloaded}
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    say(f"downloaded {format_bytes(downloaded)}, takes {format_bytes(measure_bytes(folder))} on disk")
    for name, found in works.items():
        say(f"{name}: {found}")


def prove(sysroot: Sysroot) -> dict[str, str]:
    """Let the emulator import each runtime, where processors that it does not know crash it; return the versions by its name.

    Raises:
        Unreachable: One does not work.
    """
    found = {}
    for name in sysroot.architecture.runtimes:
        plugin = plugins.describe("runtimes", name)
        command = sysroot.make_command("-c", PROOF, str(plugin.path), plugin.attribute, name)
        what = f"the {name} of qemu:{sysroot.name}"
        found[name] = _run(command, what, "prepare it again", environment=sysroot.make_environment()).strip()
    return found


def _describe_wanted(kind: Architecture) -> dict[str, Any]:
    """Return what decides the content of a folder, by what people call it."""
    return {"packages": [SUITE, *kind.packages], "runtimes": _list_wheels(kind), "layout": LAYOUT}


def _list_wheels(kind: Architecture) -> list[str]:
    """Return what is taken from the package index: numpy, and the runtimes in the versions of this machine."""
    if not kind.wheels:
        return []
    packages = [plugins.load("runtimes", name).package for name in kind.runtimes]
    return ["numpy>=2.1", *(f"{package}=={version(package).partition('+')[0]}" for package in packages)]


def _require_programs() -> None:
    missing = [program for program in ("apt-get", "dpkg", "dpkg-deb") if shutil.which(program) is None]
    if missing:
        raise Unreachable(
            f"qemu: what it runs is made of Debian's packages, and this machine has no {' and no '.join(missing)}; prepare it "
            "on Debian or Ubuntu, or in a container of one"
        )
    if not KEYRING.is_file():
        raise Unreachable(f"qemu: {KEYRING} is not there, so Debian's packages cannot be checked; apt install {KEYRING.stem}")


def _unpack_packages(sysroot: Sysroot, packed: Path) -> None:
    """Take the emulator for this machine and the packages of the other architecture, and unpack them."""
    kind, root = sysroot.architecture, sysroot.folder / "root"
    own = _run(["dpkg", "--print-architecture"], "dpkg", "see what it says").strip()
    apt = ["apt-get", "-c", str(_write_apt_settings(packed, [kind.debian, *({own} - {kind.debian})]))]
    remedy = f"is {MIRROR} within reach? Proxies are set as for apt; nothing was left behind"
    _run([*apt, "--quiet", "update"], "Debian's packages", remedy)
    archives = packed / "cache" / "archives"
    _run([*apt, "--quiet", "download", f"qemu-user:{own}"], "Debian's packages", remedy, folder=packed)
    _run([*apt, "--quiet", "--yes", "--download-only", "install", *kind.packages], "Debian's packages", remedy)
    root.mkdir()
    for package in packed.glob("qemu-user_*.deb"):
        _take_program(package, kind.emulator, sysroot.folder)
    for package in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)], package.name, "free space, or try again")
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    libraries = root / "usr" / "lib" / kind.libraries
    for library in ("blas", "lapack"):  # installing would choose one of several
        if (libraries / library).is_dir():
            (libraries / f"lib{library}.so.3").symlink_to(f"{library}/lib{library}.so.3")


def _take_program(package: Path, name: str, folder: Path) -> None:
    """Unpack one program of a package, whose others take half a gigabyte.

    Raises:
        Unreachable: It holds no such program.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as archive,
    ):
        found = next((member for member in archive if member.name == f"./usr/bin/{name}" and member.isfile()), None)
        content = archive.extractfile(found) if found else None
        if content is None:
            raise Unreachable(f"{package.name}: holds no {name}; another release of Debian has it elsewhere")
        with (folder / name).open("wb") as file:
            shutil.copyfileobj(content, file)
        unpacked.kill()
    (folder / name).chmod(0o755)


def _write_apt_settings(packed: Path, architectures: Sequence[str]) -> Path:
    """Write settings by which apt keeps to a folder: its own lists, cache and sources, and nothing is installed there."""
    for folder in ("state/lists/partial", "cache/archives/partial", "parts"):
        (packed / folder).mkdir(parents=True)
    (packed / "state" / "status").touch()
    (packed / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n", encoding="utf-8")
    settings = {
        "Dir::State": packed / "state", "Dir::State::status": packed / "state" / "status", "Dir::Cache": packed / "cache",
        "Dir::Etc::SourceList": packed / "sources.list", "Dir::Etc::SourceParts": packed / "parts",
        "Dir::Etc::PreferencesParts": packed / "parts", "APT::Architecture": architectures[0],
        "APT::Install-Recommends": "false", "APT::Sandbox::User": "root", "Acquire::Languages": "none", "Acquire::Retries": "3",
        "Acquire::GzipIndexes": "true",  # they are kept as they come, which is a sixth
    }  # fmt: skip
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    lines += ["#clear APT::Architectures;", *(f'APT::Architectures:: "{each}";' for each in architectures)]
    lines += ["#clear APT::Update;"]  # what the machine does after an update of its own
    (packed / "apt.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return packed / "apt.conf"


def _unpack_wheels(wanted: Sequence[str], machine: str, packed: Path, site: Path) -> None:
    """Take wheels for another machine from the package index and unpack them."""
    wheels = packed / "wheels"
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, 16, -1)] + [f"manylinux2014_{machine}"]
    options = [option for platform in platforms for option in ("--platform", platform)]
    tags = ["--python-version", PYTHON, "--implementation", "cp", "--abi", f"cp{PYTHON.replace('.', '')}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *tags, *options]
    _run(
        [*command, "--dest", str(wheels), *wanted], "pip download", "is the package index within reach? Nothing was left behind"
    )
    for wheel in sorted(wheels.glob("*.whl")):
        shutil.unpack_archive(wheel, site, "zip")


def _run(
    command: Sequence[str], what: str, remedy: str, *, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        Unreachable: It failed; the message has its last words.
    """
    english = (dict(os.environ) if environment is None else dict(environment)) | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=english,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "ERROR:", "error:"))] or lines
        said = " / ".join(errors[-2:]) or f"status {done.returncode}"
        raise Unreachable(f"{what}: {said[:500]}; {remedy}")
    return done.stdout


def measure_bytes(folder: Path) -> int:
    """Return how much the files in a folder hold together."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
