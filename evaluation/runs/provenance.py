"""Where a run's numbers come from: code, versions, machine, seeds and command."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DISTRIBUTION = "asgc"
PACKAGES = (
    *("torch", "numpy", "envpool", "gymnasium", "ale-py"),
    *("stable-baselines3", "tianshou", "torchvision", "datasets"),
)
CODE = ("asgc", "evaluation", "rl", "supervised", "configs", "pyproject.toml")


def collect(*, seeds: Mapping[str, int], device: str, command: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything about the present process that its results may depend on, as a JSON-able mapping.

    `device` is the device in words ("cpu", "cuda:0"); `command` defaults to the interpreter's full command line.
    Keys: time (UTC), command, cwd, code (see `code_version`), versions (of Python and what is installed of
    `PACKAGES`), machine (platform, CPU model, number of CPUs this process may use, torch's threads), device, seeds.
    """
    found = [(package, _version(package)) for package in PACKAGES]
    torch = sys.modules.get("torch")
    threads = {"threads": torch.get_num_threads()} if torch else {}
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(sys.orig_argv if command is None else command),
        "cwd": str(Path.cwd()),
        "code": own_code(),
        "versions": {"python": platform.python_version(), **{name: version for name, version in found if version}},
        "machine": {"platform": platform.platform(), "cpu": _cpu_model(), "cpus": cpus, **threads},
        "device": _device_name(device),
        "seeds": dict(seeds),
    }


@functools.cache
def own_code() -> dict[str, Any]:
    """`code_version` of this process, asked once: its code is what it was when it was imported."""
    return code_version()


def code_version(folder: Path | None = None) -> dict[str, Any]:
    """The version of this code: {"commit", "dirty"} in a git checkout, else {"version"} and, where pip noted it,
    "commit".

    dirty: a file of the toolkit is modified or untracked. `folder` is where the code lies (default: this package).
    A folder that git does not track (an environment inside somebody's repository) is not that repository's code.
    """
    here = folder or Path(__file__).parent
    if _git(here, "ls-files", "--error-unmatch", ".") is not None and (commit := _git(here, "rev-parse", "HEAD")):
        top = Path(_git(here, "rev-parse", "--show-toplevel") or here)
        status = _git(top, "status", "--porcelain", "--untracked-files=all", "--", *CODE)
        return {"commit": commit, "dirty": status is None or status != ""}
    found: dict[str, Any] = {"version": _version(DISTRIBUTION)}
    if found["version"] is not None:
        # PEP 610: `pip install git+...` notes the commit it installed.
        url = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        if url and (commit := json.loads(url).get("vcs_info", {}).get("commit_id")):
            found["commit"] = commit
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """git's answer, or None where there is no git, no repository, or git refuses."""
    # In a hook of another repository GIT_DIR and its like would point there.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if torch.cuda.is_available() else device
