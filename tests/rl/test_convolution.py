"""What a GPU computes in the place of strided convolutions and of the output, beside PyTorch's own, on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rl.convolution import Convolution, Output
from rl.networks import build_network
from rl.option_groups import NetworkConfig
from rl.tasks import ObservationSpec


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    return [output, *torch.autograd.grad(output, inputs, torch.randn(output.shape, dtype=output.dtype))]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    stride=st.integers(1, 4),
    blocks=st.integers(1, 3),
    channels=st.integers(1, 5),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    last=st.booleans(),
)
def test_a_convolution_of_blocks_is_the_strided_one(
    stride: int, blocks: int, channels: int, more: tuple[int, int], last: bool
) -> None:
    """Outputs and all gradients, in both memory formats; sides that the stride does not divide, too."""
    torch.manual_seed(0)
    kernel = stride * blocks
    convolution = Convolution(channels, 3, kernel, stride).double()
    x = torch.randn(2, channels, kernel + more[0], kernel + more[1], dtype=torch.double, requires_grad=True)
    if last:
        convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    tensors = [x, convolution.weight, convolution.bias]
    expected = gradients(nn.Conv2d.forward(convolution, x), tensors)
    for a, b in zip(gradients(convolution.blockwise(x), tensors), expected, strict=True):
        torch.testing.assert_close(a, b)


class OnGPU(Tensor):
    """A tensor that says so."""

    is_cuda = True  # type: ignore[assignment]


@pytest.mark.parametrize(("kernel", "stride", "expected"), [(8, 4, True), (5, 2, False), (3, 1, False)])
def test_blocks_are_for_strides_that_divide_the_kernel(
    kernel: int, stride: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(Convolution, "blockwise", lambda self, x: taken.append(1))
    convolution = Convolution(4, 8, kernel, stride)
    convolution(torch.zeros(1, 4, 20, 20).as_subclass(OnGPU))
    assert bool(taken) is expected
    taken.clear()
    convolution(torch.zeros(1, 4, 20, 20))
    assert not taken, "on a CPU"


def test_blocks_have_their_channels_last_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *tensors: seen.extend(tensors))
    Convolution(4, 8, 4, 2).blockwise(torch.zeros(3, 4, 10, 10))
    assert [tuple(tensor.shape) for tensor in seen[:2]] == [(3, 16, 5, 5), (8, 16, 2, 2)]
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in seen[:2])


def test_frames_networks_are_made_of_them() -> None:
    network = build_network(ObservationSpec((4, 84, 84), "uint8"), 6, NetworkConfig())
    assert [type(layer) for layer in network.layers if not list(layer.children())] == [
        *[Convolution, nn.ReLU] * 3,
        *(nn.Flatten, nn.Linear, nn.ReLU, Output),
    ]


@pytest.mark.parametrize(("batch", "expected"), [(341, True), (342, False)])
def test_sums_are_for_few_products(batch: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(Output, "sums", lambda self, x: taken.append(1))
    output = Output(512, 6)
    output(torch.zeros(batch, 512).as_subclass(OnGPU))
    assert bool(taken) is expected
    taken.clear()
    output(torch.zeros(batch, 512))
    assert not taken, "on a CPU"


def test_the_output_as_sums_is_the_linear_layer() -> None:
    torch.manual_seed(0)
    output = Output(64, 6).double()
    x = torch.randn(5, 64, dtype=torch.double, requires_grad=True)
    tensors = [x, output.weight, output.bias]
    for a, b in zip(gradients(output.sums(x), tensors), gradients(nn.Linear.forward(output, x), tensors), strict=True):
        torch.testing.assert_close(a, b)
