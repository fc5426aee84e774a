"""The README of a bundle: what is inside, how well it did, and how to use it with or without this tool."""

from __future__ import annotations

from compress.records import BundleFile, Manifest


def readme(manifest: Manifest) -> str:
    """Return the Markdown text that describes a bundle to people."""
    pre = manifest.preprocess
    rows = "\n".join(map(_row, manifest.files))
    mode = {"gray": "L", "rgb": "RGB"}[pre.channels]
    return f"""# {manifest.name}

An image classifier with {len(manifest.classes)} classes, ready to run. `manifest.json` says everything below to programs.

| file | runtime | precision | bytes | agreement % | top-1 drop, points | max-abs-diff | gate |
|---|---|---|---|---|---|---|---|
{rows}

Each file was run on its own runtime and compared with the torch network that it came from. `{manifest.samples}` holds images
with that network's logits, so that the comparison can be repeated anywhere:

    compress verify BUNDLE
    compress predict BUNDLE IMAGE...

## By hand

The input `{manifest.input}` is float32 [batch, {len(pre.mean)}, {pre.height}, {pre.width}], the output `{manifest.output}` is
float32 [batch, {len(manifest.classes)}]. An image becomes an input by

    image = PIL.Image.open(path).convert({mode!r})
    if image.size != ({pre.width}, {pre.height}):
        image = image.resize(({pre.width}, {pre.height}), PIL.Image.Resampling.{pre.interpolation.upper()})
    pixels = numpy.asarray(image, dtype=numpy.float32).reshape({pre.height}, {pre.width}, {len(pre.mean)})
    mean = numpy.array({list(pre.mean)}, dtype=numpy.float32)
    std = numpy.array({list(pre.std)}, dtype=numpy.float32)
    images = ((pixels / numpy.float32(255) - mean) / std).transpose(2, 0, 1)[None]

and the class is `classes[logits.argmax()]` with `classes` from `manifest.json`.
"""


def _row(file: BundleFile) -> str:
    gate = file.gate
    figures = (
        _figure(gate.agreement_percent, ".2f"),
        _figure(gate.top1_drop_points, ".2f"),
        _figure(gate.max_abs_diff, ".2g"),
        f"{gate.status} on {gate.samples} images",
    )
    return "| " + " | ".join((f"`{file.path}`", file.runtime, file.precision, str(file.size_bytes), *figures)) + " |"


def _figure(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)
