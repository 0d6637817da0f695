"""A run's life: its folder and files, checkpoints, provenance, seeds, recorder, watchers, and the loop of trainers."""
