"""Computing as if in int8: the grids, the gradient, and that everything is as before afterwards."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from compress.errors import CompressError
from compress.freezing import find_moving_tensors, freeze_all_but
from compress.methods._maps.projector import Branch, Projected, build_projector
from compress.models import Network
from compress.models.resnet_cifar import resnet8
from compress.quantization.fake_quantize import (
    CHUNK,
    FakeQuantizer,
    apply_fake_quantization,
    fit_grid,
    round_activation,
    round_weight,
)
from exporters import Quantization
from exporters.onnx import Onnx
from tests.tiny import tiny

EXACT = 1e-6
"""Of the size of the numbers: float32 rounds its sums at 6e-8, and a few of them come together."""


def images(count: int = 40) -> Tensor:
    return torch.randn(count, 1, 8, 8)


def trained_like() -> Network:
    """Return a small ResNet whose batch norm has statistics, scales and shifts unlike its first ones."""
    network = resnet8(10, 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)  # a negative scale turns the channel round
            nn.init.normal_(module.bias)
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(images())
    return network.eval()


def numpy_weight(weight: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / limit
    scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / scale), -limit, limit) * scale


def numpy_activation(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale


@pytest.mark.parametrize("limit", [127, 64])
def test_weights_on_the_grid_stay_as_they_are(limit: int) -> None:
    """What has 8 bits already, or 7 with a spare one, is changed by no bit; so rounding twice is rounding once."""
    codes = torch.randint(-limit, limit + 1, (6, 3, 3, 3)).float()
    codes[:, 0, 0, 0] = limit  # so that the range of each channel is known
    weight = codes * 2.0 ** -torch.arange(6.0).view(6, 1, 1, 1)
    assert torch.equal(round_weight(weight, limit), weight)
    once = round_weight(torch.randn(6, 3, 3, 3), limit)
    torch.testing.assert_close(round_weight(once, limit), once, rtol=EXACT, atol=0)


def test_activations_on_the_grid_stay_as_they_are() -> None:
    """What an unsigned grid can hold is changed by no bit; zero, with which maps are padded, is always held."""
    own = fit_grid(torch.tensor(-1.0), torch.tensor(3.0))
    held = (torch.arange(256) - own.zero_point) * own.scale
    assert torch.equal(round_activation(held, own), held)
    for low, high in [(-1.0, 3.0), (0.5, 3.0), (-3.0, -0.5), (0.0, 0.0)]:
        zero = torch.zeros(1)
        assert torch.equal(round_activation(zero, fit_grid(torch.tensor(low), torch.tensor(high))), zero)


def test_values_are_those_of_an_independent_implementation() -> None:
    """NumPy in float64 from the definition gives the same numbers."""
    weight, values = torch.randn(5, 4, 3, 3), 4 * torch.randn(1000)
    for limit in (127, 64):
        expected = torch.from_numpy(numpy_weight(weight.double().numpy(), limit)).float()
        torch.testing.assert_close(round_weight(weight, limit), expected, rtol=0, atol=EXACT)
    for low, high in [(-1.0, 3.0), (0.5, 3.0), (-7.0, -2.0)]:
        expected = torch.from_numpy(numpy_activation(values.double().numpy(), low, high)).float()
        given = round_activation(values, fit_grid(torch.tensor(low), torch.tensor(high)))
        step = (max(high, 0) - min(low, 0)) / 255
        apart = (given - expected).abs()
        assert int((apart > EXACT).sum()) <= 1  # a value that lies half-way may fall to either side in float32
        assert float(apart.max()) < 1.01 * step


def test_the_gradient_passes_inside_the_range_and_not_outside() -> None:
    """Rounding is straight-through; what is clipped learns nothing; every weight is inside its own range."""
    values = torch.tensor([-1.5, -0.9, 0.0, 0.3, 2.9, 3.5], requires_grad=True)
    round_activation(values, fit_grid(torch.tensor(-1.0), torch.tensor(3.0))).backward(torch.arange(1.0, 7.0))
    assert values.grad is not None
    assert values.grad.tolist() == [0, 2, 3, 4, 5, 0]
    weight = torch.randn(3, 4, requires_grad=True)
    seed = torch.randn(3, 4)
    round_weight(weight).backward(seed)
    assert weight.grad is not None
    assert torch.equal(weight.grad, seed)


def test_a_channel_of_zeros_stays_zero() -> None:
    """A pruned channel has no range, and gives neither a division by zero nor a number."""
    weight = torch.randn(3, 4)
    weight[1] = 0
    assert torch.equal(round_weight(weight)[1], torch.zeros(4))


PAIRS = [("conv1", "bn1"), *((f"layer{i}.0.conv{j}", f"layer{i}.0.bn{j}") for i in (1, 2, 3) for j in (1, 2))]


@torch.no_grad()
def test_rounding_commutes_with_folding_batch_norm() -> None:
    """Rounded weights before batch norm give what the rounded weights of the folded layer give, also where a scale is negative.

    The folding is torch's own. Sums come in another order, and the rounding itself changes the answers a hundred times more.
    """
    network = trained_like().module
    assert any(bool((network.get_submodule(norm).weight < 0).any()) for _, norm in PAIRS)
    for conv, norm in ((network.get_submodule(first), network.get_submodule(second)) for first, second in PAIRS):
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        folded, values = fuse_conv_bn_eval(conv, norm), torch.rand(4, conv.in_channels, 8, 8)
        apart = norm(nn.functional.conv2d(values, round_weight(conv.weight), None, conv.stride, conv.padding))
        whole = nn.functional.conv2d(values, round_weight(folded.weight), folded.bias, conv.stride, conv.padding)
        size = float(whole.norm())
        assert float((apart - whole).norm()) < 1e-5 * size
        assert float((apart - norm(conv(values))).norm()) > 1e-3 * size


@torch.no_grad()
def test_linear_layers_commute_too() -> None:
    """As for convolutions."""
    linear, norm = nn.Linear(12, 6).eval(), nn.BatchNorm1d(6).eval()
    nn.init.uniform_(norm.weight, -2, 2)
    norm.running_var = torch.rand(6) + 0.5
    values = torch.randn(50, 12)
    folded = fuse_linear_bn_eval(linear, norm)
    rounded = nn.functional.linear(values, round_weight(linear.weight), linear.bias)
    expected = nn.functional.linear(values, round_weight(folded.weight), folded.bias)
    torch.testing.assert_close(norm(rounded), expected, rtol=0, atol=1e-5)  # another order of sums


@pytest.mark.parametrize("saturation_fix", [False, True])
@torch.no_grad()
def test_a_layer_computes_from_rounded_weights_and_inputs(saturation_fix: bool) -> None:
    """Every layer gives what plain torch gives for both rounded by hand, with the range of the calibration images alone."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    calibration, held_out = images(), 3 * images(5)
    limit = 64 if saturation_fix else 127
    conv, linear = network[0], network[3]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(linear, nn.Linear)
    hidden = network[:3](calibration)
    read = round_activation(held_out, fit_grid(*torch.aminmax(calibration)))
    inside = nn.functional.conv2d(read, round_weight(conv.weight, limit), conv.bias, padding=1).relu().flatten(1)
    read = round_activation(inside, fit_grid(*torch.aminmax(hidden)))
    logits = nn.functional.linear(read, round_weight(linear.weight, limit), linear.bias)
    expected = round_activation(logits, fit_grid(*torch.aminmax(network(calibration))))  # a file rounds its output, too
    with apply_fake_quantization(network, calibration.numpy(), saturation_fix=saturation_fix):
        given = network(held_out)
    assert torch.equal(given, expected)


@torch.no_grad()
def test_names_and_values_of_the_state_stay_and_everything_is_undone() -> None:
    """Inside, the state dict is the same to the bit; afterwards classes, attributes and outputs are as they were."""
    network, held_out = trained_like(), images(5)
    before, plain = copy.deepcopy(network.state_dict()), network(held_out)
    attributes = {name: (type(module), set(vars(module))) for name, module in network.named_modules()}
    with apply_fake_quantization(network, images()):
        inside = network(held_out)
        assert list(network.state_dict()) == list(before)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert [name for name, _ in network.named_buffers()] == [name for name, _ in trained_like().named_buffers()]
        network.load_state_dict(before)
    assert not torch.equal(inside, plain)
    assert torch.equal(network(held_out), plain)
    assert {name: (type(module), set(vars(module))) for name, module in network.named_modules()} == attributes
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())


@torch.no_grad()
def test_everything_is_undone_after_an_error() -> None:
    """A network is as before, whatever happened inside."""
    network, held_out = trained_like(), images(5)
    plain = network(held_out)
    with pytest.raises(KeyError), apply_fake_quantization(network, images()):
        raise KeyError
    assert torch.equal(network(held_out), plain)
    with pytest.raises(RuntimeError), apply_fake_quantization(network, images()):
        network(torch.zeros(1, 7, 8, 8))  # stopped within a layer
    assert torch.equal(network(held_out), plain)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())


class _Interrupted(nn.Linear):
    """Is stopped while it computes on an image of ones."""

    def forward(self, values: Tensor) -> Tensor:
        if bool((values > 0.99).all()):
            raise KeyboardInterrupt
        return super().forward(values)


@torch.no_grad()
def test_everything_is_undone_after_ctrl_c_within_a_layer() -> None:
    """The parameter is back in its place, by identity, although nothing that runs after a layer has run."""
    network, held_out = nn.Sequential(nn.Flatten(), _Interrupted(64, 3)), images(5)
    weight, plain = network[1].weight, network(held_out)
    with pytest.raises(KeyboardInterrupt), apply_fake_quantization(network, images()):
        network(torch.ones(1, 1, 8, 8))
    assert network[1].weight is weight
    assert torch.equal(network(held_out), plain)


@torch.no_grad()
def test_a_copy_is_independent() -> None:
    """A copy that is made inside computes the same, also afterwards, and training it leaves the original alone."""
    network, held_out = trained_like(), images(5)
    with apply_fake_quantization(network, images()):
        inside = network(held_out)
        twin = copy.deepcopy(network)
        assert torch.equal(twin(held_out), inside)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(network(held_out), inside)
    buffer = io.BytesIO()
    torch.save(twin.state_dict(), buffer)  # plain tensors
    assert not torch.equal(twin(held_out), network(held_out))


def test_modes_weights_and_statistics_stay_as_they_are() -> None:
    """Calibration looks at a network in evaluation mode, without gradient, and leaves no trace."""
    network = tiny(4).train()
    before = copy.deepcopy(network.state_dict())
    with apply_fake_quantization(network, images()):
        assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_every_weight_gets_the_gradient_of_the_rounded_network() -> None:
    """The gradient at the rounded weights is that of the weights; nothing that a network trains is cut off."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    with apply_fake_quantization(network, images()):
        network(images(8)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_only_layers_that_run_are_rounded() -> None:
    """With the prediction path of SimKD, the student's own classifier, which is not shipped, is left alone."""
    student = tiny(2)
    shipped = Projected(student, [Branch(nn.Identity(), build_projector(4, 4, 8, final_relu=True), nn.Linear(8, 4))])
    student.classifier.weight.data.fill_(7)
    quantizer = FakeQuantizer(shipped, lambda chunk: [shipped.branches[0](student.outputs(chunk).features[-1])], images())
    assert "branches.0.classifier" in quantizer.layers
    assert "branches.0.projector.0" in quantizer.layers
    assert "backbone.module.first.0" in quantizer.layers
    twin = nn.ModuleDict({"used": nn.Linear(64, 3), "idle": nn.Linear(64, 3)})
    alone = FakeQuantizer(twin, lambda chunk: [twin["used"](chunk.flatten(1))], images())
    assert alone.layers == ("used",)


@torch.no_grad()
def test_ranges_follow_the_weights_when_asked() -> None:
    """Fitting anew gives what a fresh look at the network gives, and the layers use it at once; training copies change too."""
    network, calibration, held_out = trained_like(), images(), images(5)
    quantizer = FakeQuantizer(network, lambda chunk: [network(chunk)], calibration)
    with quantizer.active():
        network(held_out)
        for parameter in network.parameters():
            parameter.mul_(1.3)
        stale = network(held_out)
        quantizer.calibrate()
        fitted = network(held_out)
    with apply_fake_quantization(network, calibration):
        fresh = network(held_out)
    assert torch.equal(fitted, fresh)
    assert not torch.equal(stale, fresh)


@pytest.mark.slow
@torch.no_grad()
def test_it_foretells_what_a_file_answers(tmp_path: Path) -> None:
    """A file of onnxruntime with the same calibration errs on the same images in the same direction, and by as much.

    With the spare bit, for without it processors that lack VNNI saturate, which is an error of another kind. The rest of the
    difference are the inputs of the residual additions, which only the file rounds.
    """
    network, calibration, held_out = trained_like(), images(64), images(200)
    path = tmp_path / "int8.onnx"
    quantizable = Onnx(precision="int8").prepare_int8(network, held_out[:1], calibration.numpy())
    quantizable.write(path, Quantization(saturation_fix=True))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answered = torch.from_numpy(session.run(None, {"images": held_out.numpy()})[0])
    exact = network(held_out)
    with apply_fake_quantization(network, calibration, saturation_fix=True):
        foretold = network(held_out)
    of_file, of_network = answered - exact, foretold - exact
    assert float(torch.corrcoef(torch.stack([of_file.flatten(), of_network.flatten()]))[0, 1]) > 0.6
    assert 0.6 < float(of_network.norm() / of_file.norm()) < 1.6


def test_a_reduced_precision_around_it_works() -> None:
    """Mixed precision of training and channels last are as without rounding: accepted, near float32, gradient in float32."""
    network, held_out = trained_like(), images(5).to(memory_format=torch.channels_last)
    with apply_fake_quantization(network, images()):
        exact = network(held_out)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near = network(held_out).float()
        near.sum().backward()
    assert float((near - exact).detach().norm()) < 0.1 * float(
        exact.detach().norm()
    )  # bf16 has 8 bits, and there are nine layers
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_what_moves_in_training_is_as_without_it() -> None:
    """The state that a training keeps lists the same tensors, so that nothing of the rounding leaks into it."""
    network = tiny(4)
    freeze_all_but(network, network.parameters())
    plain = set(find_moving_tensors(network))
    with apply_fake_quantization(network, images()):
        assert set(find_moving_tensors(network)) == plain


class _Silent(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.mean(dim=(2, 3))


def test_what_cannot_be_quantized_is_refused_with_the_reason() -> None:
    """Nothing to quantize, no images, numbers that are not finite, a computed weight, twice at once: each says so."""
    network = tiny(4)
    with pytest.raises(CompressError, match=r"_Silent has nothing to quantize: no Conv2d and no Linear of it runs"):
        apply_fake_quantization(_Silent(), images()).__enter__()
    for wrong in (torch.zeros(0, 1, 8, 8), torch.zeros(1, 8, 8)):
        with pytest.raises(CompressError, match=r"calibration images are \[.*\]; give at least one"):
            apply_fake_quantization(network, wrong).__enter__()
    broken = copy.deepcopy(network)
    broken.module.second[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(CompressError, match=r"'module.linear' meets numbers on the calibration images that are not finite"):
        apply_fake_quantization(broken, images()).__enter__()
    computed = copy.deepcopy(network)
    parametrizations.orthogonal(computed.module.linear)
    with pytest.raises(CompressError, match=r"the weight of 'module.linear' is computed by a parametrisation"):
        apply_fake_quantization(computed, images()).__enter__()
    plain = network.eval()(images(4)).shape
    with apply_fake_quantization(network, images()):
        with pytest.raises(CompressError, match="computes as if in int8 already"), apply_fake_quantization(network, images()):
            pass
        assert network(images(4)).shape == plain
    assert type(network.classifier) is nn.Linear


@torch.no_grad()
def test_calibration_in_parts_sees_all_images() -> None:
    """Ranges span every image, whatever part it is run in; a network may round otherwise in a smaller part."""
    network, calibration = trained_like(), images(3 * CHUNK + 1)
    calibration[-1] *= 100

    def scales(some: Tensor) -> Tensor:
        return FakeQuantizer(network, lambda chunk: [network(chunk)], some).scales

    torch.testing.assert_close(scales(calibration.flip(0)), scales(calibration), rtol=1e-5, atol=0)
    assert bool((scales(calibration[:-1]) < 0.9 * scales(calibration)).all())
