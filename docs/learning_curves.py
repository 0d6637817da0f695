"""Draw the evaluation scores of runs, finished or not, and save the numbers beside the picture.

python docs/learning_curves.py docs/pong_quick runs/asgc runs/adam     # writes .png and .csv; needs matplotlib
"""

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

from evaluation.runs.run_folder import load_config, read_series
from evaluation.runs.run_metrics import training_seconds

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by colour-blind eyes, too
LINES = ("-", "--", ":", "-.")


def main() -> None:
    """Write the picture and its numbers."""
    parser = argparse.ArgumentParser(prog="python docs/learning_curves.py", description=__doc__.splitlines()[0])
    parser.add_argument("output", help="what is written, without .png and .csv")
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"run folders of one game, {len(COLOURS)} at most")
    options = parser.parse_args()
    if len(options.runs) > len(COLOURS):
        parser.error(f"there are colours for {len(COLOURS)} runs")
    figure, axes = plt.subplots(figsize=(6.4, 3.4), dpi=150, layout="constrained")
    rows = []
    for run, colour, line in zip(options.runs, COLOURS, LINES, strict=False):
        config = load_config(run)
        score, seconds = read_series(run, "eval", "score"), read_series(run, "eval", "evaluation_s")
        minutes = training_seconds(score["wall_s"], seconds["value"]) / 60
        name = config["optimizer"]["name"]
        axes.plot(score["step"] / 1e3, score["value"], line, color=colour, marker="o", markersize=4, label=name)
        rows += [(name, *row) for row in zip(score["step"], minutes.round(3), score["value"], strict=True)]
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="thousand environment steps", ylabel="mean score of the evaluation games")
    axes.set_title(config["game"], loc="left", fontsize=10)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(f"{options.output}.png")
    with Path(f"{options.output}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("optimizer", "step", "training_minutes", "score"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
