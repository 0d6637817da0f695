"""What every trainer shares, and what reads its runs: `runs`, `cli`, `study`, `analysis`, `plots`, `report`.

Imports nothing from `rl` or `supervised`. Modules are imported by name, so that reading metrics does not import torch.
"""
