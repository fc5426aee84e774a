"""The table of mobile networks: what it says of a network is so."""

from benchmarks.studies import mobile_networks


def test_a_network_is_examined_without_its_files(monkeypatch):
    """Convolutions, taps and answers of MobileNetV2, whose branches are none, are as the network has them."""
    monkeypatch.setattr(mobile_networks, "FILES", {})
    row = mobile_networks.examine("torchvision.mobilenet_v2", {"width": 0.25})
    assert row["convolutions"] == "52"
    assert row["merged"] == "–"
    assert row["taps"] == "16×16, 8×8, 4×4, 2×2"
    assert float(row["alone = batch"]) < 1e-4


def test_what_is_refused_is_a_row_with_the_reason(monkeypatch):
    """A format that cannot hold a network does not end the study."""
    monkeypatch.setattr(mobile_networks, "FILES", {"onnx": ("bad.onnx", "fp32"), "torch": ("student.pt2", "fp32")})
    monkeypatch.setattr(mobile_networks, "_run_torch", lambda _path, images: images[:, 0, 0, :10] * 0)
    monkeypatch.setattr(mobile_networks.exporters, "export", _refuse_onnx)
    row = mobile_networks.examine("torchvision.mobilenet_v2", {"width": 0.25})
    assert row["onnx"].startswith("refused: bad.onnx")
    assert row["torch"] != row["onnx"]
    table = mobile_networks.render({"small": dict.fromkeys(mobile_networks.COLUMNS, "1") | row})
    assert table.count("| small |") == 1
    assert "refused: bad.onnx" in table


def _refuse_onnx(_network, _image, path, **_options):
    from compress.errors import CompressError

    if path.suffix == ".onnx":
        raise CompressError(f"{path.name}: cannot hold it\nand more")
