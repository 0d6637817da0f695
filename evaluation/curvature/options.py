"""The group `curvature` of both trainers' configurations."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.cli.settings import option


@dataclass
class CurvatureConfig:
    """The training loss's Hessian, and slices of the loss, at evaluations: `asgc-eval plot`. Learning is the same."""

    every: int | None = option(None, "evaluations from look to look, the last one always; null: none", "[1, 1e9]")
    samples: int = option(
        512, "samples that the loss is of: of the memory, or of the latest updates (asgc-sup)", "[2, 1e6]"
    )
    vectors: int = option(40, "Lanczos steps, products with the Hessian: more for finer spectra", "[4, 1000]")
