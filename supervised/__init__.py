"""Supervised tasks with the same optimizers: see the README beside this file for what will come."""
