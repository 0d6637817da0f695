"""Run folders, checkpoints and metrics shared by every trainer of the toolkit.

Imports nothing from `rl` or `supervised`. The modules are small and are imported by name, so that reading metrics
does not import torch: `runs` (the run folder), `checkpoint`, `metrics`, `seeding`, `provenance`, `resources`,
`clock`, `errors`.
"""
