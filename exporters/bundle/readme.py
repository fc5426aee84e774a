"""Render the README of a bundle: its files, their measurements, and how to use them with or without this tool."""

from __future__ import annotations

import re
from collections.abc import Iterable

from compress.records import PILLOW_MODES, Accuracy, BundleFile, Manifest, Preprocess, Variant
from compress.statistics.calibration import BINS
from compress.tasks import load_task
from compress.text import quantify

NOT_MEASURED = "not measured"
PREDICTED = ("onnxruntime", "openvino")
"""Runtimes that `predict.py` knows."""


def render_readme(manifest: Manifest) -> str:
    """Render the README as Markdown."""
    return f"""# {escape_markdown(manifest.name)}

{name_kind(manifest)} with {len(manifest.classes)} classes, ready to run. `manifest.json` says everything below to programs
(`manifest.schema.json` is its JSON Schema), `MODEL_CARD.md` how the network came about and where it errs, `NOTICE.txt` what
is known of licences.

{render_measurements(manifest)}{_render_elsewhere(manifest)}

## On a device

With Python from 3.9, NumPy, Pillow from 9.1, and one runtime ({_list_runtimes(manifest)}):

    sha256sum -c SHA256SUMS
    python predict.py --self-test
    python predict.py IMAGE_OR_FOLDER... [--file FILE] [--top K] [--threads N] [--json]{_describe_out(manifest)}

{_describe_samples(manifest)}, and `{manifest.samples}` more images
with logits. `--self-test` holds a file to them by the rule of `rule.py` and `model_file.py`: its outputs, alone and in calls of
many sizes, its precision, and what it says of itself. edge-compress has the same rule:

    compress verify BUNDLE
    compress predict BUNDLE IMAGE...
    compress bench BUNDLE

`python bench.py` times all files whose runtime is installed, with NumPy and nothing else, by the protocol of `compress bench`,
and writes a JSON file. On a board that nobody can log in to, run it there, carry the JSON back, and take it into the report of
the run with `compress report RUN --add FILE`.

Checksums show damage, not forgery: run programs from a bundle, `predict.py`, `bench.py` and `cpp/`, only if you trust who gave
it to you.
`compress` itself never runs them.

{_explain_telemetry(manifest)}

{_render_by_hand(manifest)}

{_render_cpp(manifest)}

{_render_conversion(manifest)}
"""


def name_kind(manifest: Manifest) -> str:
    """Return what a bundle holds, with its article."""
    if load_task(manifest.task).boxes:
        return "An object detector"
    return "A semantic segmenter" if len(manifest.shape) > 1 else "An image classifier"


def find_kind(manifest: Manifest) -> str:
    """Return what answers are, `classes`, `maps` or `boxes`, or an empty text for those of another package's task."""
    task, sides = load_task(manifest.task), len(manifest.shape)
    if task.boxes:
        return "boxes"
    if task.is_dense:
        return "maps" if sides == 3 else ""
    return "classes" if sides == 1 else ""


def name_metric(manifest: Manifest) -> str:
    """Return the metric of a bundle's files in words."""
    return load_task(manifest.task).metric.title


def _describe_out(manifest: Manifest) -> str:
    return " [--out FOLDER]" if len(manifest.shape) > 1 else ""


def _describe_samples(manifest: Manifest) -> str:
    if load_task(manifest.task).boxes:
        return "`samples/` holds pictures"
    if len(manifest.shape) > 1:
        return "`samples/` holds pictures, each with its mask (`-mask`) and the trained network's map (`-map`) of class numbers"
    return "`samples/` holds pictures, `samples/expected.json` the trained network's outputs for them"


def render_measurements(manifest: Manifest) -> str:
    """Render the table of the files, with an explanation."""
    rows = (_build_row(file) for file in manifest.files)
    metric = name_metric(manifest)
    header = (
        "file", "runtime", "precision", "int8 by", "bytes", f"{metric} %, test", "agreement %, test", "ECE %, test",
        "temperature", "latency, ms", "speed-up", f"{metric} drop, points", "max-abs-diff", "gate",
    )  # fmt: skip
    return f"""{render_table(header, rows)}

Each file was run on its own runtime and compared with the torch network that it came from.
{_describe_metric(manifest)}
are of the test split, which no choice has seen; intervals are 95 %, of the median over rounds for latency. Latency is the
median of a call on the machine on which the bundle was made ({_name_machine(manifest)}), the speed-up is against the file
named there, in the same interleaved rounds. ECE is the expected calibration error of the scores, in {BINS} bins of equal
width, of the logits as they are and divided by the temperature (scaled). The drop, max-abs-diff and gate are of the
validation split."""


def _describe_outputs(manifest: Manifest) -> str:
    """Return the outputs of a file in words."""
    boxes, shape = load_task(manifest.task).boxes, manifest.shape
    if boxes:
        cells, classes = shape[0], shape[1] - boxes
        return f"""the outputs are `{manifest.output}`, float32
[batch, {cells}, {classes}], and `boxes`, float32 [batch, {cells}, {boxes}]: left, top, right and bottom in pixels of the input.
The sigmoid of a logit is the score of a class in a cell; `detections.py` chooses among them"""
    return f"the output `{manifest.output}` is float32 [batch, {', '.join(map(str, shape))}]"


def _describe_metric(manifest: Manifest) -> str:
    if load_task(manifest.task).boxes:
        return "AP, COCO's average precision, and agreement, the AP at an overlap of 0.5 of what file and network find,"
    if len(manifest.shape) > 1:
        return "mIoU, at the network's input size, and agreement, which is the mIoU of the file's map with the network's,"
    return "Top-1, with Wilson's interval, and agreement"


def _render_elsewhere(manifest: Manifest) -> str:
    """Render what was found on other devices; nothing where there were none."""
    rows = [(file, row) for file in manifest.files for row in file.elsewhere]
    if not rows:
        return ""
    metric = name_metric(manifest)
    header = (
        "device", "file", f"{metric} %, test images run there", "agreement %, there", "latency, ms", "speed-up", "gate there"
    )  # fmt: skip
    cells = (
        (
            escape_markdown(row.device), f"`{file.path}`", format_accuracy(row.accuracy),
            format_number(row.agreement_percent, ".2f"), _format_latency(row), _format_speedup(row), row.status,
        )
        for file, row in rows
    )  # fmt: skip
    return f"""

The same files on other devices, each held to the gate there on this bundle's samples. Latencies of different devices do not
compare; where nothing is measured, the device is emulated, or the file could not be timed.

{render_table(header, cells)}"""


def render_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a Markdown table."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    ruled = [lines[0], ("---",) * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def escape_markdown(text: str) -> str:
    """Escape a name from a user's data: one line of Markdown without any mark-up."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", line)


def format_accuracy(found: Accuracy | None) -> str:
    """Format an accuracy with its interval and number of images."""
    if found is None:
        return NOT_MEASURED
    return f"{found.percent:.2f} ({found.ci95[0]:.2f}–{found.ci95[1]:.2f}, n={found.samples})"


def format_number(value: float | None, form: str) -> str:
    """Format a number, or say that it was not measured."""
    return NOT_MEASURED if value is None else re.sub("^-", "−", format(value, form))


def describe_rung(variant: Variant | None) -> str:
    """Describe the rung of the ladder by which a file became int8."""
    ladder = variant.ladder if variant else None
    if ladder is None or ladder.chosen is None:
        return "–"
    chosen = ladder.rungs[ladder.chosen]
    return escape_markdown(f"{chosen.rung}: {chosen.detail}" if chosen.detail else chosen.rung)


def _build_row(file: BundleFile) -> tuple[str, ...]:
    gate, found = file.gate, file.measured
    return (
        f"`{file.path}`",
        escape_markdown(file.runtime),
        file.precision,
        describe_rung(found),
        str(file.size_bytes),
        format_accuracy(found.accuracy if found else None),
        format_number(found.agreement_percent if found else None, ".2f"),
        _format_calibration(found),
        format_number(file.temperature, ".3f"),
        _format_latency(found),
        _format_speedup(found),
        format_number(gate.drop_points, ".2f"),
        format_number(gate.max_abs_diff, ".2g"),
        f"{gate.status} on {gate.samples} images",
    )


def _format_calibration(found: Variant | None) -> str:
    if found is None or found.calibration is None:
        return NOT_MEASURED
    return f"{found.calibration.ece_percent:.2f}, scaled {found.calibration.scaled_ece_percent:.2f}"


def _format_latency(found: Variant | None) -> str:
    if found is None or found.latency_ms is None:
        return NOT_MEASURED
    latency = found.latency_ms
    mark = "" if latency.stable else ", unstable"
    threads = f"{quantify(latency.threads, 'thread')}, batch {latency.batch_size}"
    return f"{latency.p50:.3f} ({latency.ci95[0]:.3f}–{latency.ci95[1]:.3f}; {threads}{mark})"


def _format_speedup(found: Variant | None) -> str:
    if found is None or found.ratio is None:
        return NOT_MEASURED
    ratio = found.ratio
    against = escape_markdown(ratio.against)
    return f"{ratio.speedup:.2f}× ({ratio.ci95[0]:.2f}–{ratio.ci95[1]:.2f}), {ratio.verdict}; against {against}"


def _name_machine(manifest: Manifest) -> str:
    return escape_markdown(manifest.provenance.get("machine", "which is not recorded"))


def _list_runtimes(manifest: Manifest) -> str:
    """List the runtimes that `predict.py` can use, and the files that it cannot run."""
    known = dict.fromkeys(file.runtime for file in manifest.files if file.runtime in PREDICTED)
    others = ", ".join(f"`{file.path}`" for file in manifest.files if file.runtime not in PREDICTED)
    named = " or ".join(f"`{name}`" for name in known) or "none of this bundle's"
    return f"{named}; `predict.py` does not run {others}" if others else named


TELEMETRY = {
    "onnxruntime": """\
- ONNX Runtime: `predict.py` sets `ORT_DISABLE_TELEMETRY=1` before it imports the package, unless the variable is set. Set it in
  your own programs too, before they load the library: with telemetry, the library stores a device id and a database of events
  in the user's cache and looks up its vendor's host.""",
    "openvino": """\
- OpenVINO: the Python package reports its import where `openvino_telemetry` is installed; `predict.py` hides that package.
  The C++ library, and so the program in `cpp/`, has no telemetry.""",
}
"""Explanations by runtime, of those that have telemetry."""


def _explain_telemetry(manifest: Manifest) -> str:
    items = [TELEMETRY[name] for name in dict.fromkeys(file.runtime for file in manifest.files) if name in TELEMETRY]
    return "\n".join(["The programs of this bundle send no telemetry.", "", *items]).rstrip()


def _render_by_hand(manifest: Manifest) -> str:
    pre = manifest.preprocess
    mode = PILLOW_MODES[pre.channels]
    inside = [f"`{file.path}`" for file in manifest.files if file.takes_pixels]
    normalise, take = ("it normalises by itself", "takes") if len(inside) == 1 else ("they normalise by themselves", "take")
    unlike = (
        f"""

Except for {", ".join(inside)}: {normalise}, and {take} `pixels[None].astype(numpy.uint8)`,
uint8 [batch, {pre.height}, {pre.width}, {len(pre.mean)}]."""
        if inside
        else ""
    )
    whole = [file for file in manifest.files if file.runtime == "litert" and file.precision == "int8"]
    for what, files in (
        ("take and give", [file for file in whole if not file.takes_pixels and not file.gives_class]),
        ("take", [file for file in whole if not file.takes_pixels and file.gives_class]),
        ("give", [file for file in whole if file.takes_pixels and not file.gives_class]),
    ):
        if files:
            unlike += f"""

{", ".join(f"`{file.path}`" for file in files)} {what} int8: the scales and zero points by which to round the input and to read
the output are in the file."""
    unlike += _describe_class_output(manifest)
    return f"""## By hand

The input `{manifest.input}` is float32 [batch, {len(pre.mean)}, {pre.height}, {pre.width}],
{_describe_outputs(manifest)}.
An image becomes an input by

    image = PIL.Image.open(path).convert({mode!r})
{_render_placing(pre)}
    pixels = numpy.asarray(image, dtype=numpy.float32).reshape({pre.height}, {pre.width}, {len(pre.mean)})
    mean = numpy.array({list(pre.mean)}, dtype=numpy.float32)
    std = numpy.array({list(pre.std)}, dtype=numpy.float32)
    images = ((pixels / numpy.float32(255) - mean) / std).transpose(2, 0, 1)[None]

and {_describe_answer(manifest)} with `classes` from `manifest.json`.{_explain_scores(manifest)}
These lines are for plain 8-bit pictures; `predict.py` also turns pictures as EXIF says, lays transparency over white and
{_describe_levels(pre)}.{unlike}"""


def _explain_scores(manifest: Manifest) -> str:
    """Return how logits become scores, where a temperature is known."""
    if all(file.temperature is None for file in manifest.files):
        return ""
    before = " The network was calibrated before the files were made, so what is left of the temperature is near 1."
    return f""" Its score is the largest of the
softmax of `logits / temperature`, with the file's `temperature` from `manifest.json`; it was fitted on validation images, so
that of images with a score of 0.9 about nine in ten are right, as far as they are like those. Put thresholds on this
score.{before if "calibrated" in manifest.provenance else ""}"""


def describe_geometry(pre: Preprocess) -> str:
    """Return in a sentence without its end what is done to pictures of another shape than the network's."""
    if pre.geometry == "center_crop":
        return (
            f"Of pictures of any shape the middle is taken: {pre.crop_fraction:g} of the shorter side, "
            f"{pre.width} × {pre.height} pixels"
        )
    if pre.geometry == "letterbox":
        return (
            f"Pictures of any shape are scaled to fit {pre.width} × {pre.height} pixels, and the rest is filled with {pre.fill}"
        )
    return f"Pictures of any shape are squeezed to {pre.width} × {pre.height} pixels"


def _render_placing(pre: Preprocess) -> str:
    """Return the lines that bring a Pillow image to the size of the network."""
    whole, method = (pre.width, pre.height), f"PIL.Image.Resampling.{pre.interpolation.upper()}"
    if pre.geometry == "center_crop":
        outer = int(pre.width / pre.crop_fraction), int(pre.height / pre.crop_fraction)
        return f"""\
    size = ({outer[0]}, image.height * {outer[0]} // image.width)
    if size[1] < {outer[1]}:
        size = (image.width * {outer[1]} // image.height, {outer[1]})
    image = image.resize(size, {method})
    left, top = round((size[0] - {whole[0]}) / 2), round((size[1] - {whole[1]}) / 2)
    image = image.crop((left, top, left + {whole[0]}, top + {whole[1]}))"""
    if pre.geometry == "letterbox":
        return f"""\
    size = ({whole[0]}, max(1, (2 * image.height * {whole[0]} + image.width) // (2 * image.width)))
    if image.width * {whole[1]} < image.height * {whole[0]}:
        size = (max(1, (2 * image.width * {whole[1]} + image.height) // (2 * image.height)), {whole[1]})
    ground = PIL.Image.new(image.mode, {whole}, {(pre.fill,) * pre.depth if pre.depth > 1 else pre.fill})
    ground.paste(image.resize(size, {method}), (({whole[0]} - size[0]) // 2, ({whole[1]} - size[1]) // 2))
    image = ground"""
    return f"""\
    if image.size != {whole}:
        image = image.resize({whole}, {method})"""


def _describe_class_output(manifest: Manifest) -> str:
    """Return what files give that also give a class; nothing where there are none."""
    scored = [f"`{file.path}`" for file in manifest.files if file.gives_class]
    if not scored:
        return ""
    also = f"\n\n{', '.join(scored)} also {'gives' if len(scored) == 1 else 'give'} `class`"
    if len(manifest.shape) > 1:
        size = f"[batch, {manifest.preprocess.height}, {manifest.preprocess.width}]"
        return f"{also}, uint8 {size}:\nwhich of the logits is the largest when they are enlarged to the image."
    return f"""{also} [batch], which logit is the largest, and `score` [batch], its share of the softmax of
the logits as they are, not divided by the temperature below."""


def _describe_answer(manifest: Manifest) -> str:
    if len(manifest.shape) > 1:
        return "the class of a pixel is that of the largest logit, after the logits were resized to the picture (bilinear),"
    return "the class is `classes[logits.argmax()]`"


def _describe_levels(pre: Preprocess) -> str:
    """Return how values of more than 8 bits become bytes."""
    if pre.white_level is None:
        return "keeps the upper byte of 16 bits"
    black, white = pre.black_level, pre.white_level
    return f"""brings values of more than 8 bits to 8:
`(min(max(value, {black}), {white}) - {black}) * 256 // {white - black + 1}`"""


def _render_cpp(manifest: Manifest) -> str:
    pre = manifest.preprocess
    suffix = "pgm" if pre.channels == "gray" else "ppm"
    if not find_kind(manifest):
        return """## In C++

There is no C++ example for answers of this kind. `predict.py` shows what a program does with them."""
    if not any(file.runtime == "openvino" for file in manifest.files):
        return """## In C++

There is no C++ example: it is written for OpenVINO IR, of which this bundle has no file (export `openvino`, too). The Python
packages of onnxruntime hold no C or C++ headers; get those from its makers' releases."""
    return f"""## In C++

`cpp/` holds a program that runs a file with OpenVINO, whose Python package brings headers, libraries and CMake files:

    OPENVINO="$(python -c 'from importlib.util import find_spec; print(*find_spec("openvino").submodule_search_locations)')"
    cmake -S cpp -B build -DOpenVINO_DIR="$OPENVINO/cmake"
    cmake --build build
    build/example . picture.{suffix}

It takes binary {suffix.upper()} pictures of {pre.width} × {pre.height} pixels. {describe_geometry(pre)}; this makes such
files of pictures, pixel by pixel those that `predict.py` shows the network:

    python predict.py PICTURE... --prepare FOLDER
{_describe_printed(manifest)}"""


def _describe_printed(manifest: Manifest) -> str:
    """Return what the program prints of maps and boxes, in words."""
    kind = find_kind(manifest)
    if kind == "boxes":
        return """
A line is printed for each object: path, class, score, and the box in pixels of the picture. The NMS is in the program."""
    if kind == "maps":
        return """
A line tells the share of each class; the map, enlarged from the logits, is written as `PICTURE.classes.pgm`."""
    return ""


def _render_conversion(manifest: Manifest) -> str:
    """Explain how to go on to runtimes whose files are built elsewhere from ONNX."""
    pre = manifest.preprocess
    files = [file for file in manifest.files if file.runtime == "onnxruntime" and file.precision != "int8"]
    if not files:
        return """## TensorRT and Core ML

Both start from an ONNX file in floating point, of which this bundle has none (export `onnx`, too)."""
    file = min(files, key=lambda each: (each.precision != "fp32", each.takes_pixels, each.gives_class))
    sizes = (pre.height, pre.width, len(pre.mean)) if file.takes_pixels else (len(pre.mean), pre.height, pre.width)
    limits = (("min", 1), ("opt", 1), ("max", 32)) if file.batch_size is None else ()
    shapes = [f"--{limit}Shapes={manifest.input}:{'x'.join(map(str, (batch, *sizes)))}" for limit, batch in limits]
    command = " ".join(["trtexec", f"--onnx={file.path}", "--saveEngine=student.engine", *shapes])
    return f"""## TensorRT and Core ML

edge-compress neither writes nor proves files for these two; `{file.path}` is what to hand over. TensorRT builds an engine for
the GPU at hand:

    {command}

Its int8 is symmetric, with zero points of 0 only, and the int8 ONNX files of edge-compress are not: start from floating point.
Core ML's converter, coremltools, takes no ONNX any more; on Apple's devices ONNX Runtime runs the file as it is, with its Core
ML execution provider. Whatever comes out, compare its answers with `{manifest.samples}` before you ship it."""
