"""What every test gets: fixed seeds and threads, the smallest recipe for the whole chain, and another order if asked."""

from __future__ import annotations

import importlib
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from benchmarks import figures

# Read by OpenMP when torch is loaded, here and in every process that a test starts: threads that wait otherwise spin, and
# where another worker of pytest needs their cores a command takes ten times as long. No result depends on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Tests that import the package by themselves leave no trace of it on the machine of whoever runs them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer another order of the tests."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="shuffle the modules, and the tests within each")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say how the order can be had again."""
    seed = config.getoption("shuffle")
    return None if seed is None else f"order: --shuffle {seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle if asked to; else modules with whole runs come first, so that no process is left alone with one of them.

    Each module stays together, for its fixtures are costly.
    """
    if (seed := config.getoption("shuffle")) is None:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
        return
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    order = random.Random(seed)
    shuffled = [order.sample(tests, len(tests)) for tests in order.sample(list(modules.values()), len(modules))]
    items[:] = [item for tests in shuffled for item in tests]


# What hypothesis tries is never judged by the clock: a busy machine would fail it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


SEED = 20_240_229


def settle() -> None:
    """Seed every generator that is loaded, and let torch use one thread, for its sums depend on how many share them."""
    random.seed(SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)
        sys.modules["torch"].set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """Make what several tests share the same, whichever of them comes first and whatever came before."""
    if fixturedef.scope != "function":
        settle()


def read_log_settings() -> dict[str, tuple[int, bool, bool]]:
    """Return what decides whether a test sees the warnings that this project logs, where it is not Python's default."""
    own = [
        name for name in logging.root.manager.loggerDict if name.partition(".")[0] in {"compress", "exporters", "benchmarks"}
    ]
    loggers = [logging.root, *map(logging.getLogger, own)]
    settings = {logger.name: (logger.level, logger.disabled, logger.propagate) for logger in loggers}
    silenced = {"silenced up to": (logging.root.manager.disable, False, True)}
    return {name: found for name, found in (settings | silenced).items() if found != (logging.NOTSET, False, True)}


@pytest.fixture(autouse=True)
def seed() -> Iterator[int]:
    """Let each test see the same numbers alone and in company, and refuse one that leaves warnings of later ones unheard."""
    settle()
    before = read_log_settings()
    yield SEED
    after = read_log_settings()
    logging.root.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    assert after == before, "this test changed what is logged in this process"


@pytest.fixture(autouse=True, scope="session")
def useless_factor() -> float:
    """Let runs end well though latencies scatter, as beside other work; gives the bound, which has a test of its own."""
    bound, figures.USELESS_FACTOR = figures.USELESS_FACTOR, math.inf
    return bound


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Heed Ctrl-C, here and in what tests start, also where the whole run was started in the background and ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def waiting_runners() -> Iterator[dict[tuple[str, int], subprocess.Popen[str]]]:
    """Runners that wait for the files of a module, and for the next module; none is started here."""
    from benchmarks.devices import local

    runners: dict[tuple[str, int], subprocess.Popen[str]] = {}
    yield runners
    for runner in runners.values():
        local._end(runner)


@pytest.fixture(scope="module")
def shared_runners(waiting_runners: dict[tuple[str, int], subprocess.Popen[str]]) -> Iterator[None]:
    """Let all runs have their files evaluated by the same runners, each of which imports its runtime once."""
    from benchmarks.devices import local

    before = local._shared.set(waiting_runners)
    yield
    local._shared.reset(before)


Timing = tuple[Any, bytes]
"""What was measured of a file, `None` where it does not take so many images in a call; and the raw series of its job."""


@pytest.fixture(scope="session")
def known_timings() -> dict[tuple[object, ...], Timing]:
    """What was timed so far, for tests that are about something else: by device, settings and file."""
    return {}


@pytest.fixture(scope="session")
def known_translations() -> dict[tuple[object, ...], Any]:
    """Programs and ONNX graphs of networks that were exported so far, for tests that are about something else."""
    return {}


@pytest.fixture(scope="module")
def translate_once(known_translations: dict[tuple[object, ...], Any]) -> Iterator[None]:
    """Let all runs trace and translate equal networks with equal weights once: a dry run is the same in most."""
    import exporters.onnx
    import exporters.torch
    from exporters._onnx import reuse

    def describe(module: Any, *options: object) -> tuple[object, ...]:
        return (type(module).__qualname__, repr(module), reuse._hash_weights(module), *options)

    def trace(module: Any, example: Any, *, batch: int | None = None) -> Any:
        key = describe(module, "program", batch, tuple(example.shape))
        if key not in known_translations:
            known_translations[key] = reuse.find_or_trace(module, example, batch=batch)
        return known_translations[key]

    def convert(module: Any, options: Any, make: Callable[[], Any]) -> Any:
        key = describe(module, "graph", options)
        if key not in known_translations:
            known_translations[key] = make().SerializeToString(deterministic=True)
        from onnx import ModelProto

        return ModelProto.FromString(known_translations[key])

    with pytest.MonkeyPatch.context() as patch:
        for exporter in (exporters.onnx, exporters.torch):
            patch.setattr(exporter, "find_or_trace", trace)
        patch.setattr(exporters.onnx, "find_or_convert", convert)
        yield


@pytest.fixture(scope="module")
def time_once(shared_runners: None, translate_once: None, known_timings: dict[tuple[object, ...], Timing]) -> Iterator[None]:
    """Let all runs time files of one name on one device once, for tests that are about something else.

    Of the files of a run only those are timed that no run before had: torch alone takes seconds to start for it.
    """
    from compress.run import measure

    time_rounds = measure._run_rounds

    def find(run: Any, files: Sequence[Any], batch_size: int, raw: Path, *, launches: int, device: Any) -> dict[str, Any]:
        settings = (batch_size, device and device.name, run.recipe.measure.rounds, launches, run.recipe.measure.threads)
        keys = {(*settings, item.variant.name, item.path.name): item for item in files}

        def add_timings(wanted: Collection[tuple[object, ...]]) -> None:
            items = [keys[key] for key in wanted]
            found = time_rounds(run, items, batch_size, raw, launches=launches, device=device)
            series = raw.read_bytes() if raw.is_file() else b"[]"
            known_timings.update({key: (found.get(keys[key].variant.name), series) for key in wanted})

        if missing := [key for key in keys if key not in known_timings]:
            add_timings(missing)
        if len({len(timed.latency.rounds) for key in keys if (timed := known_timings[key][0])}) > 1:
            add_timings(keys)  # rounds were repeated beside other work, so the files could not be paired
        for key in keys:
            raw.write_bytes(known_timings[key][1])
        return {item.variant.name: timed for key, item in keys.items() if (timed := known_timings[key][0])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_run_rounds", find)
        yield


@pytest.fixture(scope="session")
def known_probes() -> dict[tuple[str, str], tuple[bool, str]]:
    """What the doctor found of the runtimes so far, by program and runtime."""
    return {}


@pytest.fixture(scope="module")
def probe_once(known_probes: dict[tuple[str, str], tuple[bool, str]]) -> Iterator[None]:
    """Let the doctor try each runtime once, for tests that are about something else."""
    from compress.cli import doctor

    try_program = doctor._run_probe

    def find(program: str, name: str) -> tuple[bool, str]:
        if (program, name) not in known_probes:
            known_probes[program, name] = try_program(program, name)
        return known_probes[program, name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_run_probe", find)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_recipe() -> str:
    """A recipe for real digits that names every section and trains for a second or two."""
    return """\
name: tiny
seed: 1
data: {source: digits, image_size: 8, validation_fraction: 0.2}
teacher: {model: resnet_cifar.resnet8, train: {epochs: 1}}
student: {model: resnet_cifar.resnet8}
method: {name: kd, temperature: 2}
baselines: [supervised]
train: {epochs: 1, lr: 5e-2, batch_size: 256}
exports: [{format: onnx, precision: fp32}]
gate: {max_top1_drop_points: 1.0, min_agreement: 0.98}
measure: {devices: [local], rounds: 5, launches: 1, seconds: 0.5}
"""


SOURCES = ("compress", "exporters", "benchmarks", "pyproject.toml", "README.md", "LICENSE")
"""What a wheel is built from."""


def _python(*arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no earlier build gets into it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, source / name)
    _python("-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which nothing but the wheel is installed."""
    target = tmp_path_factory.mktemp("installed")
    _python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    return target


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a user's own package: `install(kind, name, source)` writes a module and the entry point that names it."""
    from compress import plugins, recipe

    def forget() -> None:
        importlib.invalidate_caches()
        plugins._collect_plugins.cache_clear()
        recipe.schema.cache_clear()

    site = tmp_path / "site-packages"
    points = site / "acme-0.1.dist-info" / "entry_points.txt"

    def add(kind: str, name: str, source: str, *, value: str | None = None) -> None:
        module = site / "acme" / f"{name}_{kind}.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(source, encoding="utf-8")
        (site / "acme" / "__init__.py").write_text("raise RuntimeError('a plug-in was imported only to be described')\n")
        points.parent.mkdir(exist_ok=True)
        (points.parent / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 0.1\n")
        with points.open("a", encoding="utf-8") as file:
            file.write(f"[compress.{kind}]\n{name} = {value or f'acme.{module.stem}'}\n")
        monkeypatch.syspath_prepend(site)
        forget()

    yield add
    monkeypatch.undo()
    for module in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[module]
    forget()
