"""Groups of processes on one machine, joined by gloo: forked from one process, so that torch is imported once.

A check is a function that all ranks run; what it raises on any of them is what the results say, and ends the group.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.tensor  # imported before the fork, as all that is slow

Checks = Mapping[str, Callable[[Path], None]]
TIMEOUT = 300  # seconds, of one collective


def run(world: int, checks: Checks, folder: Path) -> dict[str, str]:
    """Run checks, one after another, in ``world`` ranks; with 0 in one process without a process group.

    Returns:
        For each check "", or what went wrong on which rank.
    """
    children = [_fork(rank, world, checks, folder) for rank in range(max(1, world))]
    for child in children:
        os.waitpid(child, 0)
    found = dict.fromkeys(checks, "")
    for rank in range(max(1, world)):
        path = folder / f"results-{world}-{rank}.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        for name in checks:
            error = results.get(name, "the process died")
            found[name] += f"rank {rank}:\n{error}\n" if error else ""
    return found


def _fork(rank: int, world: int, checks: Checks, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        signal.alarm(10 * TIMEOUT)  # a group that hangs ends
        torch.set_num_threads(1)
        if world:
            store = dist.FileStore(str(folder / f"store-{world}"), world)
            dist.init_process_group(
                "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=TIMEOUT)
            )
        results: dict[str, str] = {}
        for name, check in checks.items():
            try:
                check(folder)
                results[name] = ""
            except BaseException:
                results = {**dict.fromkeys(checks, f"not run, after {name!r} failed"), **results}
                results[name] = traceback.format_exc()
            (folder / f"results-{world}-{rank}.json").write_text(json.dumps(results))
            if results[name]:
                break  # the ranks may no longer be in step; those that wait for this one notice that it is gone
            if world:
                dist.barrier()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
