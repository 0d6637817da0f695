"""Draw the evaluation scores of runs over environment steps, a panel for each game, and save the numbers beside the
picture.

python docs/learning_curves.py docs/laptop runs/*        # writes .png and .csv; needs matplotlib
"""

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

from evaluation.runs.run_folder import load_config, read_series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by colour-blind eyes, too
LINES = ("-", "--", ":", "-.")


def main() -> None:
    """Write the picture and its numbers."""
    parser = argparse.ArgumentParser(prog="python docs/learning_curves.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("output", help="what is written, without .png and .csv")
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"run folders, of {len(COLOURS)} kinds at most")
    options = parser.parse_args()
    games: dict[str, list[tuple[str, str]]] = {}
    for run in options.runs:
        config = load_config(run)
        kind = f"{config['algorithm'].upper()}, {config['optimizer']['name']}"
        games.setdefault(config["game"], []).append((run, kind))
    kinds = list(dict.fromkeys(kind for runs in games.values() for _, kind in runs))
    if len(kinds) > len(COLOURS):
        parser.error(f"there are colours for {len(COLOURS)} kinds of runs, not for {', '.join(kinds)}")
    figure, panels = plt.subplots(
        1, len(games), figsize=(1.6 + 3.2 * len(games), 3.4), dpi=150, layout="constrained", squeeze=False
    )
    rows = []
    for axes, (game, runs) in zip(panels[0], games.items(), strict=True):
        for run, kind in runs:
            score = read_series(run, "eval", "score")
            look = {"color": COLOURS[kinds.index(kind)], "linestyle": LINES[kinds.index(kind)]}
            axes.plot(score["step"] / 1e6, score["value"], marker="o", markersize=3, label=kind, **look)
            rows += [(game, kind, *row) for row in zip(score["step"], score["value"], strict=True)]
        axes.set_title(game, loc="left", fontsize=10)
        axes.set_xlabel("million environment steps")
        axes.spines[["top", "right"]].set_visible(False)
        lines, names = axes.get_legend_handles_labels()
        each = dict(zip(names, lines, strict=True))  # a kind once
        axes.legend(each.values(), each.keys(), frameon=False, fontsize=8)
    panels[0][0].set_ylabel("mean score of the evaluation games")
    figure.savefig(f"{options.output}.png")
    with Path(f"{options.output}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("game", "kind", "step", "score"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
