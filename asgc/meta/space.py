"""What is meta-learned: options of ASGC by kind of layer, as a vector whose entries have no bounds.

An option's value is a smooth, increasing function of one number z (``Parameter.value``), so that learners need know
nothing of ranges, and steps of the same size mean about the same for all. Of each option the vector holds one z for all
layers, an offset for each kind of layer and, where options may change with the share of the training that is done
(``by_share``), what is added to z by its end, in proportion.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..layers import head_places

__all__ = ["KINDS", "PARAMETERS", "Parameter", "Space", "kinds_of"]

KINDS = ("weights", "vectors", "head", "embeddings")
_HEAD = re.compile("head|classif|output|logit")


@dataclass(frozen=True)
class Parameter:
    """An option that is learned: from ``low`` to ``high``, which it nears without reaching them.

    Attributes:
        log: a step of z multiplies (a scale), instead of adding (a share, an exponent).
        everywhere: the same for all layers and times, whatever the vector says of these.
    """

    name: str
    low: float
    high: float
    log: bool = True
    everywhere: bool = False

    def value(self, z: Tensor) -> Tensor:
        """The option for z, of z's shape; half way between low and high, in logarithms where ``log``, for z = 0."""
        share = torch.sigmoid(z)
        if self.log:
            return torch.exp(math.log(self.low) + math.log(self.high / self.low) * share)
        return self.low + (self.high - self.low) * share

    def z(self, value: float) -> float:
        """Inverse of ``value``; one beyond the range counts as a thousandth of it inside."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        share = min(max(share, 1e-3), 1 - 1e-3)
        return math.log(share / (1 - share))


PARAMETERS = MappingProxyType(
    {
        one.name: one
        for one in (
            Parameter("clip_factor", 0.25, 64.0),
            Parameter("clip_sharpness", 1.0, 16.0),
            Parameter("noise_scale", 1e-4, 10.0),
            Parameter("noise_decay", 0.0, 2.0, log=False),
            Parameter("outlier_share", 0.01, 0.99, log=False),
            Parameter("eps_scale", 1e-5, 100.0),
            Parameter("ceiling", 1e-5, 1.0),
            # As a baseline's best single setting has it: a rate by kind of layer, or a schedule, would be another gain.
            Parameter("lr", 1e-6, 10.0, everywhere=True),
        )
    }
)


@dataclass(frozen=True)
class Space:
    """The options that are learned together.

    Attributes:
        names: of ``PARAMETERS``.
        kinds: of layers that have offsets of their own; () for the same options everywhere.
        by_share: whether they change with the share of the training that is done.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...] = KINDS
    by_share: bool = False

    def __post_init__(self) -> None:
        for what, given, known in (("option", self.names, PARAMETERS), ("kind of layer", self.kinds, KINDS)):
            for name in given:
                if name not in known:
                    raise ValueError(f"no {what} {name!r} can be learned: there are {', '.join(known)}")
        if not self.names:
            raise ValueError(f"nothing to be learned: name one of {', '.join(PARAMETERS)}")

    @property
    def rows(self) -> int:
        """Numbers an option."""
        return 1 + len(self.kinds) + self.by_share

    @property
    def size(self) -> int:
        """Numbers of the vector."""
        return self.rows * len(self.names)

    def start(self, options: Mapping[str, float]) -> Tensor:
        """The vector of given options, the same for all layers and times: fp64, (size,). None (no ceiling) is the end
        of the range."""
        z = torch.zeros(self.rows, len(self.names), dtype=torch.float64, device="cpu")
        given = [PARAMETERS[name].high if options[name] is None else float(options[name]) for name in self.names]
        first = [PARAMETERS[name].z(x) for name, x in zip(self.names, given, strict=True)]
        z[0] = torch.tensor(first, dtype=torch.float64, device="cpu")
        return z.flatten()

    def values(self, vector: Tensor, share: float | Tensor = 0.0) -> dict[str, dict[str, Tensor]]:
        """Options by kind of layer (of all kinds), differentiable 0-dimensional tensors.

        Args:
            vector: (size,).
            share: of the training that is done, from 0 to 1.
        """
        z = vector.reshape(self.rows, len(self.names))
        whole = z[0] + share * z[-1] if self.by_share else z[0]
        found = {}
        for kind in KINDS:
            own = whole + z[1 + self.kinds.index(kind)] if kind in self.kinds else whole
            found[kind] = {
                name: PARAMETERS[name].value((z[0] if PARAMETERS[name].everywhere else own)[k])
                for k, name in enumerate(self.names)
            }
        return found


def kinds_of(params: Sequence[Tensor], names: Iterable[str | None] = ()) -> list[str]:
    """The kind of each parameter: "embeddings", where its name says so; "head", the last tensor with two or more
    dimensions that is none, and its bias behind it; else "vectors" (biases, normalizations) or "weights", by their
    dimensions.

    In a model with embeddings that last tensor is a head only if its name says so (head, classifier, output, logits) or
    it has a row for each row of an embedding: where the output is tied to the embedding it is a hidden layer's.

    Args:
        params: all of the model's, in its order.
        names: of these, where they are known.
    """
    known = [(name or "").lower() for name in names] or [""] * len(params)
    embedded = ["embed" in name and param.dim() == 2 for name, param in zip(known, params, strict=True)]
    nothing = torch.empty(0, dtype=torch.float32, device="cpu")
    rows = {param.shape[0] for param, one in zip(params, embedded, strict=True) if one}
    head = head_places([nothing if one else param for param, one in zip(params, embedded, strict=True)])
    if rows and head and params[head[0]].shape[0] not in rows and not _HEAD.search(known[head[0]]):
        head = range(0)
    found = []
    for place, (param, one) in enumerate(zip(params, embedded, strict=True)):
        other = "vectors" if param.dim() < 2 else "weights"
        found.append("embeddings" if one else "head" if place in head else other)
    return found
