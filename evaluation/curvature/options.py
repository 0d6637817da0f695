"""The group `curvature` of both trainers' configurations."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from evaluation.cli.errors import UserError
from evaluation.cli.settings import option


@dataclass
class CurvatureConfig:
    """The training loss's Hessian, and slices of the loss, at evaluations: `asgc-eval plot`. Learning is the same."""

    every: int | None = option(
        None, "evaluations from look to look, the last one always; null: none (needs asgc[curvature])", "[1, 1e9]"
    )
    samples: int = option(
        512, "samples that the loss is of: of the memory, or of the latest updates (asgc-sup)", "[2, 1e6]"
    )
    vectors: int = option(40, "Lanczos steps, products with the Hessian: more for finer spectra", "[4, 1000]")

    def check(self) -> None:
        """Raises `UserError` where what it needs is not installed."""
        if self.every is not None and importlib.util.find_spec("curvlinops") is None:
            raise UserError("--curvature.every: curvlinops is not installed; pip install 'asgc[curvature]' brings it")
