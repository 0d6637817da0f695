"""Checks of a device, one after the other within some minutes, and the table of what they found."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Setting(NamedTuple):
    device: torch.device
    small: bool  # a rehearsal
    until: float  # on time.monotonic's clock

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"


class Row(NamedTuple):
    name: str
    result: str  # pass, FAIL, SLOW, skipped
    seconds: float
    note: str


class Slow(Exception):
    """An aim that is missed."""


class Skip(Exception):
    """What cannot be asked here."""


Check = Callable[[Setting], str]  # returns a note, or raises


def run_all(
    prog: str, description: str, checks: Callable[[], Sequence[tuple[str, Check]]], argv: Sequence[str] | None
) -> int:
    """Run all checks and print the table; returns 1 where something is wrong, 3 where only an aim is missed."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (a rehearsal)")
    parser.add_argument("--seconds", type=float, default=280.0, help="what has not begun by then is left out")
    given = parser.parse_args(argv)
    device = torch.device(given.device)
    setting = Setting(device, device.type == "cpu", time.monotonic() + given.seconds)
    rows: list[Row] = []
    with contextlib.nullcontext() if device.index is None else torch.cuda.device(device):
        print(f"torch {torch.__version__}, {describe(device)}, {os.cpu_count()} cores", flush=True)
        for name, check in checks():
            rows.append(run(name, check, setting))
            print(f"{rows[-1].result:8} {name}", flush=True)
    print("\n" + table(rows))
    results = {row.result for row in rows}
    return 1 if "FAIL" in results else 3 if "SLOW" in results else 0


def run(name: str, check: Callable[[Setting], str], setting: Setting) -> Row:
    """One check; what goes wrong in it does not end the others."""
    start = time.monotonic()
    if start > setting.until:
        return Row(name, "skipped", 0.0, "no time was left")
    try:
        result, note = "pass", check(setting)
    except Slow as error:
        result, note = "SLOW", str(error)
    except Skip as error:
        result, note = "skipped", str(error)
    except Exception as error:
        traceback.print_exc(limit=-6)
        result, note = "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Row(name, result, time.monotonic() - start, note)


def describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def table(rows: Sequence[Row]) -> str:
    """All results, one a line."""
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.name:{width}}  {row.result:8}{row.seconds:7.1f} s  {row.note}" for row in rows)
