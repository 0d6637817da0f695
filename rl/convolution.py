"""Convolutions as a GPU multiplies them fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 1 << 20  # products, which lie in memory, 4 bytes each


class Convolution(nn.Conv2d):
    """`nn.Conv2d` without padding, on a GPU with a stride of 1.

    Blocks of s x s pixels become s * s channels of one ("space to depth"): then a kernel of k x k pixels with stride s
    is one of k/s x k/s blocks with stride 1, over the same products in another order. cuDNN has no fast kernels for few
    channels, nor for gradients through a stride: of Nature's network with a batch of 64 on an H200, the first layer
    took 41 us forward, the second 24 us back.

    Where the stride does not divide the kernel, and on a CPU, it is `nn.Conv2d` itself.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        (k, _), (s, _) = self.kernel_size, self.stride
        return self.blockwise(x) if x.is_cuda and s > 1 and k % s == 0 else super().forward(x)

    def blockwise(self, x: Tensor) -> Tensor:
        """The same outputs (B, O, H', W') of (B, C, H, W), in the memory format channels_last."""
        (k, _), (s, _) = self.kernel_size, self.stride
        height, width = ((side - k) // s * s + k for side in x.shape[2:])  # beyond them no kernel reaches
        return F.conv2d(_blocks(x[:, :, :height, :width], s), _blocks(self.weight, s), self.bias)


def _blocks(x: Tensor, s: int) -> Tensor:
    """(n, s * s * c, h / s, w / s) of (n, c, h, w), channels last in memory."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // s, s, w // s, s).permute(0, 2, 4, 3, 5, 1)
    channels = blocks.reshape(n, h // s, w // s, s * s * c).permute(0, 3, 1, 2)
    return channels.contiguous(memory_format=torch.channels_last)  # what it is, unless a side of 1 hides it


class Output(nn.Linear):
    """`nn.Linear`, on a GPU as sums of products where these are few: cuBLAS takes 13 us for 64 x 512 x 6."""

    def forward(self, x: Tensor) -> Tensor:
        return self.sums(x) if x.is_cuda and len(x) * self.weight.numel() <= FEW else super().forward(x)

    def sums(self, x: Tensor) -> Tensor:
        """(B, outputs) of (B, inputs)."""
        return (x.unsqueeze(1) * self.weight).sum(2) + self.bias
