"""Spectral normalization of chosen layers (Gogianu et al. 2021, arXiv 2105.05246; Miyato et al. 2018, 1802.05957).

A layer computes with W / sigma(W), sigma the largest singular value, which is followed by one step of power iteration
an update. Unlike `torch.nn.utils.parametrizations.spectral_norm`, which this equals otherwise, it

- computes in float32 under autocast: in bfloat16 sigma would be off by up to 0.4 %;
- takes a step only in forward passes that a gradient is wanted of, in train mode. Acting, choosing actions, evaluating
  and recording change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

FIRST_STEPS = 15  # of power iteration on the initial weights


class SpectralNorm(nn.Module):
    """W -> W / sigma(W), a parametrization of a weight; a convolution's is the matrix (outputs, all others).

    Attributes:
        left, right: estimates of the first singular vectors (outputs,) and (inputs,). They are buffers: a copied state,
            as the target network's, has the same sigma.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("left", F.normalize(matrix.new_empty(matrix.shape[0]).normal_(), dim=0))
        self.register_buffer("right", F.normalize(matrix.new_empty(matrix.shape[1]).normal_(), dim=0))
        for _ in range(FIRST_STEPS):
            self._iterate(matrix)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.left.copy_(F.normalize(matrix @ self.right, dim=0))
        self.right.copy_(F.normalize(matrix.T @ self.left, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training and torch.is_grad_enabled():
                self._iterate(matrix)
            # Clones: a second forward pass before the backward one would change what that needs.
            return weight / torch.dot(self.left.clone(), matrix @ self.right.clone())


def normalize_layers(layers: Iterable[nn.Module], chosen: Sequence[int]) -> None:
    """Normalize the chosen ones of a network's layers, in place.

    Args:
        chosen: places, from the end, among the layers that have weight matrices or kernels; 1 is the last one. Both
            streams of a dueling network are one layer, and so are the two convolutions of a residual block.
    """
    inside = [[one for one in layer.modules() if isinstance(one, nn.Conv2d | nn.Linear)] for layer in layers]
    with_weights = [found for found in inside if found]
    for place in set(chosen):
        for module in with_weights[-place]:
            # Unsafe: without its trial run, which the meta device (networks that are only measured) could not do.
            parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight), unsafe=True)
