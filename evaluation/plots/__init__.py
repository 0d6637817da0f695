"""Pictures of studies and runs: `catalog` says which there are, `matplotlib_files` and `evaluation.report` draw them.

A picture is first a `figure.Figure`: panels of numbers with their intervals, free of any plotting library. The files,
the CSV beside each and the interactive page are three views of that one object, so they cannot disagree.
"""
