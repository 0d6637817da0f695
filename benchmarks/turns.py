"""Contestants that take turns in one process, in an order that changes from round to round, so that a machine whose
speed drifts slows all of them alike; and the ratios within the rounds."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Turn:
    """What a round took: wall seconds, seconds of all cores in this process and in those that it started and ended."""

    seconds: float
    cpu_seconds: float


def take_turns(jobs: Sequence[Callable[[int], Any]], rounds: int, device: torch.device) -> list[list[Turn]]:
    """What each job, called with the round's number, took in each round."""
    turns: list[list[Turn]] = [[] for _ in jobs]
    for number in range(rounds):
        first = number % len(jobs)
        for i in [*range(first, len(jobs)), *range(first)]:
            _wait(device)
            cpu, start = _cpu_seconds(), time.perf_counter()
            jobs[i](number)
            _wait(device)
            turns[i].append(Turn(time.perf_counter() - start, _cpu_seconds() - cpu))
    return turns


def ratios(mine: Sequence[Turn], others: Sequence[Sequence[Turn]]) -> str:
    """How many times as fast one is as the fastest of others: medians over the rounds of the ratio within a round.

    On a machine with other work, processor time tells more than time: it does not count while others have the core.
    """
    wall, cpu = (
        statistics.median(b / a for a, b in zip(row, min(rest, key=statistics.median), strict=True))
        for row, rest in (
            ([turn.seconds for turn in mine], [[turn.seconds for turn in row] for row in others]),
            ([turn.cpu_seconds for turn in mine], [[turn.cpu_seconds for turn in row] for row in others]),
        )
    )
    return f"{cpu:.2f}x by processor time; ratio: {wall:.2f}x"


def rate(row: Sequence[Turn], items: int, unit: str) -> str:
    """The median speed of rounds of so many items each, its range, and the median by processor time."""
    found, cpu = [items / turn.seconds for turn in row], [items / turn.cpu_seconds for turn in row]
    digits = ".1f" if min(found) < 1000 else ".0f"
    return (
        f"{statistics.median(found):9,{digits}} {unit}/s  (min {min(found):,{digits}}, max {max(found):,{digits}}), "
        f"{statistics.median(cpu):,{digits}} in a second of a core"
    )


def load(threads: int) -> str:
    """A line about other work on this machine, where there is some; else nothing."""
    others, cores = os.getloadavg()[0], os.cpu_count() or 1
    if others + threads <= cores + 0.5:
        return ""
    return (
        f"this machine has other work (load {others:.1f} before the start, {cores} cores): the ratio by processor time "
        "tells more than that of the time"
    )


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
