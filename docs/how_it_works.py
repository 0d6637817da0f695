"""One picture of how ASGC works: ``python -m docs.how_it_works RUN PICTURE [--layer NAME]``.

Left the family of smooth clips, right one layer of a real run: the size of its gradient at every recorded update and
the threshold that follows it, with the updates of the target network marked. RUN is a run of ASGC in norm mode whose
gradients were recorded at every update: ``asgc-rl train --optimizer.mode norm --gradients.interval 1 ...``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.cli.errors import UserError, main_guard
from evaluation.plots import style
from evaluation.plots.matplotlib_files import STYLE

SHARPNESS = ((1.0, style.DOTTED), (2.0, style.DASH_DOT), (4.0, style.SOLID), (8.0, style.DASHED), (np.inf, style.LONG))
COLUMNS = ["update", "layer", "numel", "since_shift", "grad_rms", "threshold"]


def draw(run: Path, picture: Path, layer: str | None = None) -> str:
    """Draw the picture and return the layer it shows (default: the largest one that has a threshold)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch
    from pyarrow import ArrowException, parquet

    from asgc import functional

    try:
        table = parquet.read_table(run / "gradients", columns=COLUMNS)
    except (OSError, ArrowException, ValueError) as error:
        raise UserError(f"{run} has no readable gradients: train with --gradients.interval 1") from error
    rows = {name: np.asarray(table.column(name).to_pylist()) for name in COLUMNS}
    usable = np.isfinite(rows["threshold"].astype(float)) & (rows["grad_rms"].astype(float) > 0)
    if not usable.any():
        raise UserError(f"no layer of {run} has a threshold: train with --optimizer asgc")
    layer = layer or str(rows["layer"][usable][rows["numel"][usable].argmax()])
    if layer not in rows["layer"][usable]:
        raise UserError(f"{run} has no layer {layer!r}: it has {', '.join(sorted(set(rows['layer'][usable])))}")
    (mine,) = np.nonzero(usable & (rows["layer"] == layer))
    mine = mine[np.unique(rows["update"][mine], return_index=True)[1]]  # in order; an update may be recorded twice
    update, size, limit, since = (rows[name][mine] for name in ("update", "grad_rms", "threshold", "since_shift"))

    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.6), width_ratios=(1, 1.9), layout="constrained")
        x = np.linspace(0, 4, 400)
        left.plot(x, x, color=style.BEFORE, linewidth=0.8)
        for sharpness, dash in SHARPNESS:
            name = "inf: hard" if np.isinf(sharpness) else f"{sharpness:g}"
            clipped = functional.clip(torch.from_numpy(x), 1.0, sharpness)
            (line,) = left.plot(x, clipped, color=style.AFTER, linewidth=1.2, label=name)
            line.set_dashes(dash) if dash else None
        left.set(xlim=(0, 4), ylim=(0, 1.5), xlabel="gradient / threshold", ylabel="clipped / threshold")
        left.set_title("The smooth clip, by its sharpness p", loc="left")
        left.legend(title="p", loc="lower right")

        above = size > limit
        right.plot(update[~above], size[~above], ".", color=style.BEFORE, markersize=1.2, label="gradient (RMS)")
        right.plot(update[above], size[above], ".", color=style.AFTER, markersize=2.4, label="of it, clipped")
        right.plot(update, limit, color=style.THRESHOLD, linewidth=1.2, label="threshold")
        for sync in update[since == 0]:
            right.axvline(sync, ymin=0.96, color="black", linewidth=0.8)
        right.set(yscale="log", xlabel="update (ticks at the top: updates of the target network)")
        right.set_title(f"{layer} of a DQN: {above.mean():.1%} of its updates are clipped", loc="left")
        right.legend(loc="lower right", ncols=3, markerscale=4)
        figure.savefig(picture, dpi=200)
        plt.close(figure)
    return layer


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m docs.how_it_works", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with gradients recorded at every update")
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="file to write: .png, .svg or .pdf")
    parser.add_argument("--layer", help="layer to show (default: the largest)")
    options = parser.parse_args(argv)
    print(f"{options.picture}: {draw(options.run, options.picture, options.layer)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
