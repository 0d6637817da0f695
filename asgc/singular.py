"""The largest singular value of a layer's weights, by the power method with a vector that is kept from step to step
(Miyato et al. 2018, arXiv 1802.05957)."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import noise_like

__all__ = ["first_vector", "iterate"]

_FIRST_ITERATIONS = 10  # from a random vector


def first_vector(weights: Tensor, layer: int, seed: int = 0) -> Tensor:
    """A vector near the right singular one, fp32, (elements of an output unit,)."""
    matrix = weights.detach().flatten(1)
    vector = noise_like(matrix.new_empty(matrix.shape[1], dtype=torch.float32), seed, 0, layer).to(torch.float32)
    for _ in range(_FIRST_ITERATIONS - 1):
        _, vector = iterate(matrix, vector)
    return vector


def iterate(weights: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """The largest singular value (fp64, 0-dimensional) of weights with dimension 0 as rows, by one iteration more; and
    the new vector, fp32."""
    matrix = weights.flatten(1).to(torch.promote_types(weights.dtype, torch.float32))
    product = matrix.detach().T @ (matrix.detach() @ vector.to(matrix.dtype))
    size = torch.linalg.vector_norm(product)
    vector = torch.where(size > 0, product / torch.where(size > 0, size, 1.0), vector.to(matrix.dtype))  # weights of 0
    return torch.linalg.vector_norm((matrix @ vector).double()), vector.float()
