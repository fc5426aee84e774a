"""Recognise what a file is by its first bytes, whatever its name says: so that a message can name it."""

from __future__ import annotations

HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\2\0", "a cursor (CUR)"),
    (b"icns", "an icon (ICNS)"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"FUJIFILMCCD-RAW", "a raw camera file (RAF)"),
    (b"IIRO", "a raw camera file (ORF)"),
    (b"IIU\0", "a raw camera file (RW2)"),
    (b"FLIF", "FLIF"),
    (b"BPG\xfb", "BPG"),
    (b"\x01\xda", "SGI"),
    (b"gimp xcf", "a GIMP file (XCF)"),
    (b"\x93NUMPY", "a NumPy array (NPY)"),
    (b"\x89HDF", "HDF5"),
    (b"MATLAB", "a MATLAB file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (b"\0\0\1\xba", "a video (MPEG)"),
    (b"\0\5\x16\7", "the half of a file that macOS writes beside it (AppleDouble)"),
    (b"\0\5\x16\0", "the half of a file that macOS writes beside it (AppleSingle)"),
    (b"version https://git-lfs", "a pointer of Git LFS and not the file itself (git lfs pull fetches it)"),
    (b"PAR1", "Parquet"),
)


def recognise_format(data: bytes) -> str | None:
    """Return what a file is, in words that follow `is`; `None` where its bytes tell nothing.

    Args:
        data: Its content, or the first kilobyte.
    """
    if data[4:8] == b"ftyp":
        return _recognise_container(data)
    if data[:4] == b"RIFF" and data[8:12] in (b"AVI ", b"WAVE"):
        return "a video (AVI)" if data[8:12] == b"AVI " else "sound (WAV)"
    if data[128:132] == b"DICM":
        return "DICOM"
    for signature, name in SIGNATURES:
        if data.startswith(signature):
            return name
    return _recognise_text(data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower())


def _recognise_container(data: bytes) -> str:
    """Return what a file of the ISO base media format is: by its main brand, or else by those that it is compatible with."""
    length = min(int.from_bytes(data[:4], "big"), 1024)
    main, others = data[8:12], {data[place : place + 4] for place in range(16, length, 4)}
    if main in (b"avif", b"avis") or (main in (b"mif1", b"msf1") and b"avif" in others):
        return "AVIF"
    if main in HEIF_BRANDS:
        return "HEIC"
    return {b"crx ": "a raw camera file (CR3)", b"jxl ": "JPEG XL", b"jp2 ": "JPEG 2000"}.get(main, "a video (MP4)")


def _recognise_text(start: bytes) -> str | None:
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (HTML)"
    if b"<svg" in start and start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")):
        return "SVG"
    return "XML" if start.startswith(b"<?xml") else None
