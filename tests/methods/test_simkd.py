"""SimKD: the projector, the loss, the path that is shipped, and what it refuses to share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compress import freezing
from compress.data import Batch
from compress.errors import CompressError
from compress.methods._maps.projector import build_projector
from compress.methods.simkd import Simkd
from compress.models import Network, count_macs, count_parameters
from compress.training import checkpoint
from exporters.onnx import Onnx
from tests.methods.networks import Small, between, small, unsettle
from tests.methods.reference import doubles
from tests.tiny import batch, setting

Floats = NDArray[np.float64]


def evaluated(method: Simkd) -> Simkd:
    """Return a method in evaluation mode whose projectors have uneven statistics."""
    for module in method.shipped.branches.modules():
        if isinstance(module, nn.BatchNorm2d):
            unsettle(module)
    freezing.freeze_all_but(method, ())
    return method


@pytest.mark.parametrize(
    ("channels", "factor", "parameters"),
    [((256, 256), 2, 214_016), ((256, 256), 4, 70_400), ((256, 256), 8, 26_240), ((512, 2048), 2, 12_066_816)],
)
def test_the_projector_has_the_size_that_is_known_of_it(channels: tuple[int, int], factor: int, parameters: int) -> None:
    """Parameters of the projectors of known pairs of networks, counted from the layers of the released code."""
    made = build_projector(channels[0], channels[1] // factor, channels[1], final_relu=True)
    assert count_parameters(made) == parameters
    assert not any(module.bias is not None for module in made.modules() if isinstance(module, nn.Conv2d))


def normalised(maps: Floats, norm: nn.BatchNorm2d) -> Floats:
    """Batch norm with its running statistics, [B, c, h, w]."""
    mean, variance, scale, shift = (
        doubles(values).reshape(1, -1, 1, 1) for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (maps - mean) / np.sqrt(variance + norm.eps) * scale + shift


def convolved(maps: Floats, weight: Floats) -> Floats:
    """Convolution of stride 1 that keeps the size, [B, c, h, w] with [d, c, k, k]."""
    edge, (height, width) = weight.shape[2] // 2, maps.shape[2:]
    padded = np.pad(maps, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    return sum(
        np.einsum("bchw,dc->bdhw", padded[:, :, row : row + height, column : column + width], weight[:, :, row, column])
        for row in range(weight.shape[2])
        for column in range(weight.shape[3])
    )


def averaged(maps: Floats, kernel: int) -> Floats:
    count, channels, height, width = maps.shape
    return maps.reshape(count, channels, height // kernel, kernel, width // kernel, kernel).mean(axis=(3, 5))


@pytest.mark.parametrize(("student_stride", "teacher_stride"), [(1, 2), (2, 1), (2, 2)], ids=["8→4", "4←8", "4=4"])
def test_loss_and_logits_are_those_of_a_second_implementation(student_stride: int, teacher_stride: int) -> None:
    """Pool, projector, loss and shared classifier, from the equations in NumPy float64, whichever map is the larger."""
    method = evaluated(Simkd(between(small(3, student_stride), small(6, teacher_stride))))
    data = batch(5)
    step = method.step(data)
    ours, theirs = doubles(step.student.features[-1]), doubles(step.teacher().features[-1])
    ours, theirs = averaged(ours, ours.shape[2] // 4), averaged(theirs, theirs.shape[2] // 4)
    layers = list(method.shipped.branches[0].projector)
    for place in (0, 3, 6):
        ours = np.maximum(normalised(convolved(ours, doubles(layers[place].weight)), layers[place + 1]), 0)
    terms = method(step)
    assert set(terms) == {"mse"}
    assert float(terms["mse"]) == pytest.approx(np.square(ours - theirs).mean(), rel=1e-5)  # float32 over some ten layers
    head = method.teachers[0].classifier
    logits = ours.mean(axis=(2, 3)) @ doubles(head.weight).T + doubles(head.bias)
    np.testing.assert_allclose(doubles(method.deployable()(data.images)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("student_stride", "kernel"), [(1, 2), (2, None)], ids=["8→4", "4=4"])
def test_what_is_shipped_pools_a_larger_map_before_the_projector(student_stride: int, kernel: int | None) -> None:
    """A student with the larger map ships a pool of fixed kernel; otherwise no pool is there."""
    method = Simkd(between(small(3, student_stride), small(6, 2)))
    pools = [module.kernel_size for module in method.deployable().modules() if isinstance(module, nn.AvgPool2d)]
    assert pools == ([(kernel, kernel)] if kernel else [])


def test_sides_are_pooled_apart() -> None:
    """Where the student's map is the larger in height and the teacher's in width, each is pooled in its own."""
    wide = Network(Small(6), taps=("last",), classifier="head")
    wide.module.conv.stride = (2, 1)
    tall = Network(Small(3), taps=("last",), classifier="head")
    tall.module.conv.stride = (1, 2)
    method = Simkd(between(tall, wide))  # 8×4 and 4×8
    assert method.shipped.branches[0].pool.kernel_size == (2, 1)
    assert method.teacher_pools[0].kernel_size == (1, 2)
    assert torch.isfinite(method(method.step(batch()))["mse"])


def test_sizes_without_a_whole_ratio_are_refused() -> None:
    """A pool of 6×6 to 4×4 has no fixed kernel; the message says both sizes and what to do, for either side."""
    six, four = small(3, 2), small(6, 3)  # of 12 pixels
    with pytest.raises(CompressError, match="the student's last map is 6×6, which does not pool to 4×4 with a kernel of whole"):
        Simkd(between(six, four, size=12))
    with pytest.raises(CompressError, match="last map of teacher 0 is 6×6, which does not pool to 4×4"):
        Simkd(between(four, six, size=12))


class ByHand(nn.Module):
    """The shipped path, written as one would by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.pool = nn.AvgPool2d(2)
        self.projector = build_projector(3, 3, 6, final_relu=True)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(images)))
        features = self.projector(self.pool(features))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def test_maps_of_one_size_are_not_pooled() -> None:
    """Where student and teacher have maps of one size, the shipped path has no pool."""
    assert isinstance(Simkd(between(small(3, 2), small(6, 2))).shipped.branches[0].pool, nn.Identity)


@pytest.mark.slow
def test_the_exported_graph_is_backbone_pool_projector_and_classifier() -> None:
    """The file has the operators of the parts put together by hand, nothing of the student's head, and the right outputs."""
    image = torch.zeros(1, 1, 8, 8)
    method = evaluated(Simkd(between(small(3), small(6, 2))))
    model, plain = (Onnx().convert(network, image) for network in (method.deployable(), ByHand()))
    found, wanted = ([node.op_type for node in graph.graph.node] for graph in (model, plain))
    assert found == wanted
    assert found.count("AveragePool") == 1
    images = torch.randn(3, 1, 8, 8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": images.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(logits, method.deployable()(images).numpy(), rtol=1e-4, atol=1e-5)


def test_parameters_and_work_of_the_students_head_are_not_counted() -> None:
    """Parameters and multiply-accumulates are those of the parts that are shipped."""
    method = Simkd(between(small(3), small(6, 2)))
    image = torch.zeros(1, 1, 8, 8)
    parts = (method.student.module.conv, method.student.module.last, method.shipped.branches[0].projector)
    teachers_classifier = 6 * 4 + 4
    assert count_parameters(method.deployable()) == sum(count_parameters(part) for part in parts) + teachers_classifier
    projections = 16 * (3 * 3 + 9 * 3 * 3 + 3 * 6)
    assert count_macs(method.deployable(), image) == 64 * 9 * 3 + projections + 6 * 4


def test_the_shipped_classifier_is_a_copy() -> None:
    """The teacher's classifier is shipped with its values, and not as the object of the user's teacher."""
    method = Simkd(setting())
    shipped, given = method.shipped.branches[0].classifier, method.teachers[0].classifier
    assert torch.equal(shipped.weight, given.weight)
    assert shipped.weight is not given.weight


def test_the_last_relu_follows_the_sign_of_the_teachers_map() -> None:
    """`auto` ends the projector in a ReLU only where the teacher's map is never negative; `on` and `off` insist."""

    def ends_in_relu(*, signed: bool, final_relu: str = "auto") -> bool:
        method = Simkd(between(small(3), small(6, signed=signed)), final_relu=final_relu)  # type: ignore[arg-type]
        return isinstance(method.shipped.branches[0].projector[-1], nn.ReLU)

    assert ends_in_relu(signed=False)
    assert not ends_in_relu(signed=True)
    assert ends_in_relu(signed=True, final_relu="on")
    assert not ends_in_relu(signed=False, final_relu="off")


def test_several_teachers_have_a_path_each_and_give_their_mean() -> None:
    """With two teachers of different width and size the loss and the logits are the means over both."""
    method = evaluated(Simkd(between(small(3), small(6, 2), small(8))))
    data = batch(5)
    each = [evaluated(Simkd(between(method.student, teacher))) for teacher in method.teachers]
    for alone, branch in zip(each, method.shipped.branches, strict=True):
        alone.shipped.branches[0].load_state_dict(branch.state_dict())
    term = method(method.step(data))["mse"]
    torch.testing.assert_close(term, torch.stack([alone(alone.step(data))["mse"] for alone in each]).mean())
    logits = torch.stack([alone.deployable()(data.images) for alone in each])
    torch.testing.assert_close(method.deployable()(data.images), logits.mean(dim=0))


def test_a_frozen_teacher_is_asked_for_one_map_at_the_size_that_is_compared() -> None:
    """What can be stored of a teacher is its last map, pooled where it is the larger; nothing else is read."""

    def read(method: Simkd) -> list[tuple[int | None, nn.Module | None]]:
        freezing.freeze_all_but(method, method.phases()["student"])
        step = method.step(batch())
        method(step)
        return [(signal.tap, signal.module) for signal in step.signals_read]

    larger = Simkd(between(small(3, 2), small(6)))
    assert read(larger) == [(0, larger.teacher_pools[0])]
    assert read(Simkd(setting())) == [(1, None)]


class Headed(nn.Module):
    """A backbone whose head has several layers with weights, and flattens its map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(5, 7), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(7, 4))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.more(self.stem(images))).flatten(1))
        return logits


def test_everything_behind_the_students_last_tap_is_left_out() -> None:
    """Of a head of several layers nothing is shipped, nor of layers between tap and pooling; the backbone is shared."""
    student = Network(Headed(), taps=("stem",))
    method = Simkd(between(student, small(6)))
    names = {name.partition(".")[0] for name, _ in method.shipped.backbone.module.named_parameters()}
    assert names == {"stem"}
    assert method.shipped.backbone.module.stem is student.module.stem
    assert isinstance(student.module.classifier, nn.Sequential), "the user's student lost its head"


def test_a_student_that_reads_the_weights_of_its_head_is_refused() -> None:
    """Where the forward pass uses weights without calling their module, the message says what cannot be left out."""

    class Odd(Headed):
        def forward(self, images: Tensor) -> Tensor:
            pooled = self.pool(self.stem(images) * self.classifier[0].bias[0]).flatten(1)
            logits: Tensor = self.classifier(F.pad(pooled, (0, 2)))
            return logits

    with pytest.raises(CompressError, match="student does not run without the weights behind its last tap 'stem'"):
        Simkd(between(Network(Odd(), taps=("stem",)), small(6)))


def test_a_teacher_whose_head_does_more_is_refused() -> None:
    """More than global average pooling and one linear layer cannot be shared: the message names tap and classifier."""
    hidden = nn.Sequential(nn.Linear(6, 9), nn.Hardswish(), nn.Linear(9, 4))
    deep = Network(Small(6, head=hidden), taps=("last",), classifier="head.2")
    with pytest.raises(
        CompressError, match=r"teacher 0: its classifier 'head.2' takes 9 values and its last tap 'last' gives 6"
    ):
        Simkd(between(small(3), deep))
    square = nn.Sequential(nn.Linear(6, 6), nn.Hardswish(), nn.Linear(6, 4))
    deep = Network(Small(6, head=square), taps=("last",), classifier="head.2")
    with pytest.raises(CompressError, match=r"classifier 'head.2' on the pooled map of its last tap 'last' differs from its"):
        Simkd(between(small(3), deep))
    early = Network(Small(6), taps=("conv",), classifier="head")
    with pytest.raises(CompressError, match="tap what its global average pooling reads"):
        Simkd(between(small(3), early))


def test_networks_that_do_not_say_where_their_map_and_classifier_are_are_refused() -> None:
    """No tap, no classifier, a tap without a map, a factor that leaves no channel, other classes: each says what to do."""
    with pytest.raises(CompressError, match=r"the student has no taps; name its last map"):
        Simkd(between(Network(Small(3), taps=()), small(6)))
    with pytest.raises(CompressError, match=r"teacher 0 has no taps"):
        Simkd(between(small(3), Network(Small(6), taps=(), classifier="head")))
    with pytest.raises(CompressError, match="names no classifier"):
        Simkd(between(small(3), Network(Small(6), taps=("last",))))
    with pytest.raises(CompressError, match=r"method.simkd: the student's tap gives \[1, 4\]"):
        Simkd(between(Network(Small(3), taps=("head",)), small(6)))
    with pytest.raises(CompressError, match=r"method.simkd.factor: 7 leaves nothing of the teacher's 6 channels"):
        Simkd(between(small(3), small(6)), factor=7)
    with pytest.raises(CompressError, match="teacher 0 gives 4 classes and the data has 5"):
        Simkd(setting()._replace(classes=5))


def test_shipped_weights_have_plain_names(tmp_path: Path) -> None:
    """A file of shipped weights holds backbone and branches, and nothing of the student's head or the rest of the teacher."""
    method = Simkd(between(small(3), small(6, 2)))
    checkpoint.save_weights(tmp_path / "weights.safetensors", method.product(), metadata={})
    names = set(method.product().state_dict())
    assert {name.split(".")[0] for name in names} == {"backbone", "branches"}
    assert "branches.0.classifier.weight" in names
    assert not [name for name in names if "head" in name]


def test_training_and_shipping_take_one_path() -> None:
    """The logits that are validated are the teacher's classifier on the very map that the loss compares."""
    method = evaluated(Simkd(between(small(3), small(6, 2))))
    data = Batch(torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    step, branch = method.step(data), method.shipped.branches[0]
    projected = branch.projector(branch.pool(step.student.features[-1]))
    logits = branch.classifier(projected.mean(dim=(2, 3)))
    torch.testing.assert_close(method.predictions(step)["student"], logits)
