"""Pictures: one meaning everywhere, and one clear message for each that cannot be used."""

import io
import random
import warnings
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.errors import CompressError, Unreachable
from compress.preprocess import (
    MAX_PIXELS,
    Levels,
    compute_scale_shift,
    decode,
    decode_picture,
    measure_statistics,
    normalise,
    scale_to_bytes,
)
from compress.records import Preprocess
from tests import encoded_pictures

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def contract(size=8, channels="rgb", interpolation="bilinear"):
    count = 1 if channels == "gray" else 3
    return Preprocess(
        height=size, width=size, channels=channels, interpolation=interpolation, mean=MEAN[:count], std=STD[:count]
    )


def encoded(image, suffix="PNG", **options):
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def picture(size=(8, 8), mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("channels", ["gray", "rgb"])
def test_numpy_and_torch_agree_bit_for_bit(channels):
    """Every value of every channel is normalised to the same float32 by NumPy and by torch."""
    preprocess = contract(16, channels)
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = np.repeat(values, len(preprocess.mean), axis=3)
    scale, shift = (torch.from_numpy(part)[:, None, None] for part in compute_scale_shift(preprocess))
    by_torch = torch.from_numpy(images).permute(0, 3, 1, 2).float() * scale + shift
    assert np.array_equal(normalise(images, preprocess).view(np.int32), by_torch.contiguous().numpy().view(np.int32))


def test_normalisation_is_the_documented_formula():
    """The result is (value / 255 - mean) / std, to the rounding of float32, contiguous [N, C, H, W]."""
    preprocess = contract()
    images = np.stack([np.asarray(picture())])
    exact = ((images / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    result = normalise(images, preprocess)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, exact, atol=5e-7)  # two roundings of numbers below 4


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 1), np.uint8),
        np.zeros((1, 8, 9, 3), np.uint8),
    ],
)
def test_only_decoded_images_are_normalised(images):
    """Images of another type, rank, depth or size are refused with what they are."""
    with pytest.raises(CompressError, match=r"images are .* uint8 \[N, 8, 8, 3\] is needed"):
        normalise(images, contract())


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), (MEAN, (0.2, 0.0, 0.2)), ((0.5, float("nan"), 0.5), STD)])
def test_mean_and_std_must_fit_the_channels(mean, std):
    """A missing value, a zero std and a NaN are refused, not divided by."""
    with pytest.raises(CompressError, match="std"):
        compute_scale_shift(Preprocess(height=8, width=8, channels="rgb", mean=mean, std=std))


def test_statistics_are_exact():
    """Mean and std equal those of exact fractions, whatever the order of the images."""
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
    values = [Fraction(int(value), 255) for value in images[..., 1].ravel()]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    found = measure_statistics(images)
    assert (found[0][1], found[1][1]) == (round(float(mean), 6), round(float(variance) ** 0.5, 6))
    assert measure_statistics(images[::-1]) == found


def test_statistics_need_images():
    """No images have no mean."""
    with pytest.raises(CompressError, match="no images"):
        measure_statistics(np.zeros((0, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("suffix", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_lossless_format_gives_its_pixels(suffix):
    """An image of the right size and depth comes out as it went in."""
    data = encoded(picture(), suffix, **({"lossless": True} if suffix == "WEBP" else {}))
    assert np.array_equal(decode(data, contract(), "x"), np.asarray(picture()))


def test_bytes_file_and_image_are_the_same_picture(tmp_path):
    """It does not matter how a picture is handed over."""
    data = encoded(picture((11, 6)), "JPEG")
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    results = [decode(source, contract(), "x") for source in (data, path, Image.open(path))]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", ["gray", "rgb"])
def test_any_picture_becomes_the_contracts_shape(channels, interpolation):
    """The result is uint8 [H, W, C] of exactly the size asked for, and writable."""
    preprocess = contract(8, channels, interpolation)
    result = decode(encoded(picture((13, 5))), preprocess, "x")
    assert (result.shape, result.dtype, result.flags.writeable) == ((8, 8, len(preprocess.mean)), np.uint8, True)


def test_gray_pixels_in_three_channels_are_equal():
    """A gray picture decoded to RGB has three equal channels."""
    result = decode(encoded(picture(mode="L")), contract(), "x")
    assert (result == result[..., :1]).all()


def test_transparency_is_laid_over_white():
    """A fully transparent pixel is white, an opaque one keeps its colour, in RGBA and in a palette."""
    image = Image.new("RGBA", (8, 8), (200, 10, 10, 0))
    image.putpixel((3, 0), (200, 10, 10, 255))
    for data in (encoded(image), encoded(image.convert("P"), transparency=image.convert("P").getpixel((0, 0)))):
        result = decode(data, contract(), "x")
        assert result[5, 5].tolist() == [255, 255, 255]
    assert decode(encoded(image), contract(), "x")[0, 3].tolist() == [200, 10, 10]


def test_exif_orientation_is_applied():
    """A picture that its camera stored sideways comes out upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to see it upright
    result = decode(encoded(picture(), exif=exif), contract(), "x")
    assert np.array_equal(result, np.rot90(np.asarray(picture()), k=-1))


def test_sixteen_bits_keep_their_upper_byte():
    """A 16-bit gray PNG is scaled, not clipped to white."""
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    result = decode(encoded(Image.fromarray(values)), contract(8, "gray"), "x")
    assert np.array_equal(result[..., 0], values >> 8)


WIDE = {
    "RGB PNG": lambda values: encoded_pictures.encode_png(values[..., :3]),
    "gray PNG": lambda values: encoded_pictures.encode_png(values[..., :1]),
    "little-endian TIFF": lambda values: encoded_pictures.encode_tiff(values[..., :3]),
    "big-endian TIFF": lambda values: encoded_pictures.encode_tiff(values[..., :3], order=">"),
    "deflated TIFF": lambda values: encoded_pictures.encode_tiff(values[..., :3], deflated=True),
    "TIFF of 32 bits": lambda values: encoded_pictures.encode_integers(values[..., :1]),
    "PPM": lambda values: encoded_pictures.encode_map(values[..., :3], 65535),
    "PPM of 12 bits": lambda values: encoded_pictures.encode_map(values[..., :3], 4095),
    "PGM of 12 bits": lambda values: encoded_pictures.encode_map(values[..., :1], 4095),
}


def twelve_bits():
    values = np.random.default_rng(5).integers(0, 4096, (8, 8, 4))
    values[0, 0], values[0, 1] = 0, 4095
    return values


@pytest.mark.parametrize("kind", WIDE)
def test_of_twelve_bits_in_sixteen_the_upper_eight_are_kept(kind):
    """With the white level that the recipe names, gray or coloured, in every format that holds more than eight bits."""
    values = twelve_bits()
    preprocess = contract(8).model_copy(update={"white_level": 4095})
    result, _, levels = decode_picture(WIDE[kind](values), preprocess, "x")
    expected = values[..., :1] if "gray" in kind or "PGM" in kind or "32" in kind else values[..., :3]
    assert np.array_equal(result, np.broadcast_to(expected >> 4, (8, 8, 3)))
    assert levels == Levels(0, 4095)


@pytest.mark.parametrize("kind", ["RGB PNG", "gray PNG", "big-endian TIFF", "deflated TIFF", "PPM"])
def test_the_range_of_sixteen_bits_is_told(kind):
    """So that somebody can notice over a set that only a part of it is used; the pixels are the upper bytes."""
    values = twelve_bits()
    result, _, levels = decode_picture(WIDE[kind](values), contract(8), "x")
    assert levels == Levels(0, 4095)
    assert result.max() == 15


def test_transparency_of_sixteen_bits_is_laid_over_white():
    """Transparency keeps its own range: the white level is about colours."""
    for channels in (2, 4):
        values = np.full((8, 8, channels), 2048)
        values[..., -1] = 65535
        values[0, 0, -1] = 0
        preprocess = contract(8).model_copy(update={"white_level": 4095})
        result = decode(encoded_pictures.encode_png(values), preprocess, "x")
        assert result[0, 0].tolist() == [255] * 3
        assert result[1:].tolist() == np.full((7, 8, 3), 128).tolist()


def test_levels_cut_off_what_lies_beyond():
    """Below black is 0, above white is 255, and between them is even."""
    preprocess = contract(8).model_copy(update={"black_level": 1000, "white_level": 1255})
    assert scale_to_bytes(np.array([0, 999, 1000, 1001, 1254, 1255, 65535]), preprocess).tolist() == [0, 0, 0, 1, 254, 255, 255]
    full = np.arange(65536)
    assert np.array_equal(scale_to_bytes(full, contract(8)), full >> 8)


FOREIGN = {
    "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf",
    "AVIF as a set": b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "JPEG XL": b"\xff\x0a\x7a\x1f",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "a web page": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "SVG": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "a PDF": b"%PDF-1.7",
    "DICOM": bytes(128) + b"DICM",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a",
    "a video": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_format_that_is_not_read_is_named(name):
    """By its content, whatever it is called; and the message lists what is read."""
    kind = name.removesuffix(" as a set")
    with pytest.raises(
        CompressError, match=rf"IMG_1\.jpg: .* it is .*{kind}.*, named \.jpg; PNG, JPEG, .* are read: convert it"
    ):
        decode(FOREIGN[name] + bytes(200), contract(), "IMG_1.jpg")
    with pytest.raises(CompressError, match=rf"row 3: .* it is .*{kind}[^,]*; PNG"):
        decode(FOREIGN[name] + bytes(200), contract(), "row 3")


@pytest.mark.parametrize(("data", "reason"), [(b"", "the file is empty"), (bytes(500), "all of the file is zeros")])
def test_a_file_without_content_is_told(data, reason):
    """As an interrupted copy leaves it."""
    with pytest.raises(CompressError, match=rf"cannot be decoded as a picture \({reason}\); replace or remove it"):
        decode(data, contract(), "x.png")


def test_cmyk_is_converted():
    """A CMYK JPEG of one colour is that colour in RGB, to the rounding of JPEG."""
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(decode(data, contract(), "x").astype(int) - [255, 0, 0]).max() <= 4


def bomb():
    """Return a PNG of a kilobyte that claims 60,000 × 60,000 pixels."""
    data = bytearray(encoded(Image.new("L", (8, 8))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


BAD = {
    "empty": (b"", "cannot be decoded"),
    "text": (b"<html>not found</html>", "cannot be decoded"),
    "truncated": (encoded(picture((64, 64)))[:600], "cannot be decoded"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "cannot be decoded"),
    "animated": (encoded(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8))]), "2 frames; give a still"),
    "float": (encoded(Image.new("F", (8, 8)), "TIFF"), "32-bit values .* convert it to 8 bits"),
    "bomb": (bomb(), "pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_named(name):
    """Each kind of unusable picture gives one message that says which picture it is."""
    data, reason = BAD[name]
    with pytest.raises(CompressError, match=rf"^cat\.png: .*{reason}"):
        decode(data, contract(), "cat.png")


def test_a_picture_above_the_limit_is_refused_before_it_is_decoded():
    """Just above `MAX_PIXELS`, where Pillow itself only warns, the picture is refused by its header."""
    image = Image.new("L", (1, 1))
    image._size = (MAX_PIXELS + 1, 1)
    with pytest.raises(CompressError, match="shrink it"):
        decode(image, contract(), "x")


def test_a_missing_file_is_unreachable(tmp_path):
    """A path that is not there has its own exit code."""
    with pytest.raises(Unreachable, match="cannot be read"):
        decode(Path(tmp_path / "no.png"), contract(), "no.png")


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM"])
def test_damaged_bytes_never_raise_anything_else(suffix):
    """Three hundred damaged copies of a picture each decode or give a `CompressError`."""
    rng = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(picture((20, 24)), suffix, **({"exif": exif} if suffix in {"PNG", "JPEG", "WEBP"} else {}))
    refused = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of damaged EXIF blocks
        for _ in range(300):
            damaged = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
            for _ in range(rng.randrange(8)):
                if damaged:
                    damaged[int(rng.random() ** 2 * len(damaged))] = rng.randrange(256)
            try:
                decode(bytes(damaged), contract(), "x")
            except CompressError:
                refused += 1
    assert refused > 30  # the damage is real
