"""Draw the evaluation scores of runs, finished or not, and save the numbers beside the picture.

python docs/learning_curves.py docs/pong_quick runs/asgc runs/adam     # writes .png and .csv; needs matplotlib
"""

import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from evaluation.runs.run_folder import load_config, read_series
from evaluation.runs.run_metrics import training_seconds

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by colour-blind eyes, too
LINES = ("-", "--", ":", "-.")


def main(output: str, *runs: str) -> None:
    """Write `output`.png and `output`.csv."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4), dpi=150, layout="constrained")
    rows = []
    for run, colour, line in zip(runs, COLOURS, LINES, strict=False):
        config = load_config(run)
        score, seconds = read_series(run, "eval", "score"), read_series(run, "eval", "evaluation_s")
        minutes = training_seconds(score["wall_s"], seconds["value"]) / 60
        name = config["optimizer"]["name"]
        axes.plot(score["step"] / 1e3, score["value"], line, color=colour, marker="o", markersize=4, label=name)
        rows += [(name, *row) for row in zip(score["step"], minutes.round(3), score["value"], strict=True)]
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="thousand environment steps", ylabel="mean score of 10 evaluation games", ylim=(-22, 22))
    axes.set_title(f"{config['game']}, preset quick", loc="left", fontsize=10)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(output).with_suffix(".png"))
    with Path(output).with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("optimizer", "step", "training_minutes", "score"))
        writer.writerows(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
