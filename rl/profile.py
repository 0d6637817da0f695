"""Where the time of training goes: seconds of named parts of an advance."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any

import torch

ENV, UPLOAD, ACT, LEARN, WAIT, OTHER = "env", "upload", "act", "learn", "wait", "other"
SAMPLE, FORWARD, BACKWARD, STEP = "learn/sample", "learn/forward", "learn/backward", "learn/step"
MEANINGS = {
    ENV: "stepping the environments",
    UPLOAD: "putting frames into the replay",
    ACT: "choosing actions",
    WAIT: "waiting for the device's actions",
    LEARN: "updates",
    OTHER: "scores, records, the rest of a step",
}
_PENDING = 512  # pairs of events, before those that are over are looked for


class Profile:
    """Adds up the seconds of blocks; what a block has inside of it counts there only.

    On a GPU, where launching returns at once, each block also marks the stream before and after it: the time between is
    the device's, from the first of the block's kernels to the last. The marks are read later, when they are over, so
    that nothing waits for them.

    Use::

        with profile(ENV): ...
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.device_seconds: dict[str, float] = {}
        self.steps = 0
        self._marks = device.type == "cuda"
        self._sections: dict[str, _Section] = {}
        self._open: list[_Section] = []
        self._pending: list[tuple[str, Any, Any]] = []

    def __call__(self, name: str) -> contextlib.AbstractContextManager[Any]:
        if name not in self._sections:
            self._sections[name] = _Section(self, name)
        return self._sections[name]

    def clear(self) -> None:
        """Begin anew."""
        self._read_marks(wait=True)
        self.seconds, self.device_seconds, self.steps = {}, {}, 0

    @property
    def total(self) -> float:
        """Seconds of all blocks."""
        return sum(self.seconds.values())

    def summary(self) -> dict[str, Any]:
        """For a file: seconds and shares of each part, sub-parts within `learn`."""
        self._read_marks(wait=True)
        total = self.total
        parts = {
            name: {"seconds": seconds, "share": seconds / total if total > 0 else 0.0}
            | ({"device_seconds": self.device_seconds[name]} if name in self.device_seconds else {})
            for name, seconds in self.seconds.items()
        }
        return {"seconds": total, "steps": self.steps, "steps_per_s": self.steps / total if total else 0.0} | {
            "parts": parts
        }

    def lines(self) -> list[str]:
        """For people: a table, largest last."""
        summary = self.summary()
        head = f"{summary['seconds']:.1f} s of training, {summary['steps_per_s']:,.0f} environment steps/s in them"
        lines = [f"profile of this session: {head}"]
        tops: dict[str, list[tuple[str, dict[str, float]]]] = {}
        for name, part in summary["parts"].items():
            tops.setdefault(name.partition("/")[0], []).append((name, part))
        order = [name for name in MEANINGS if name in tops]
        for top in [*order, *(name for name in tops if name not in order)]:
            rows = tops[top]
            whole = {key: sum(part.get(key, 0.0) for _, part in rows) for key in ("seconds", "share", "device_seconds")}
            lines.append(_line(f"  {top:8}", whole, MEANINGS.get(top, "")))
            inner = [(name, part) for name, part in rows if "/" in name]
            if inner:
                lines += [_line(f"    {name.partition('/')[2]:9}", part, "") for name, part in sorted(inner)]
        return lines

    def _enter(self, section: _Section) -> None:
        section.start, section.inside = time.perf_counter(), 0.0
        if self._marks:
            section.mark = torch.cuda.Event(enable_timing=True)
            section.mark.record()
        self._open.append(section)

    def _exit(self, section: _Section) -> None:
        elapsed = time.perf_counter() - section.start
        self._open.pop()
        self.seconds[section.name] = self.seconds.get(section.name, 0.0) + elapsed - section.inside
        if self._open:
            self._open[-1].inside += elapsed
        if self._marks:
            after = torch.cuda.Event(enable_timing=True)
            after.record()
            self._pending.append((section.name, section.mark, after))
            if len(self._pending) >= _PENDING:
                self._read_marks()

    def _read_marks(self, wait: bool = False) -> None:
        if wait and self._pending:
            self._pending[-1][2].synchronize()
        left = []
        for name, before, after in self._pending:
            if after.query():
                seconds = before.elapsed_time(after) / 1000
                self.device_seconds[name] = self.device_seconds.get(name, 0.0) + seconds
            else:
                left.append((name, before, after))
        self._pending = left


class _Section:
    """A block of a profile; not within itself."""

    start: float
    inside: float
    mark: Any = None

    def __init__(self, profile: Profile, name: str) -> None:
        self._profile, self.name = profile, name

    def __enter__(self) -> None:
        self._profile._enter(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._profile._exit(self)


class NoProfile(Profile):
    """Nothing is measured."""

    _nothing = contextlib.nullcontext()

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def __call__(self, name: str) -> contextlib.AbstractContextManager[Any]:
        return self._nothing


def _line(label: str, part: dict[str, float], meaning: str) -> str:
    device = f"  {part['device_seconds']:8.1f} s of the device" if part.get("device_seconds") else ""
    return f"{label} {part['seconds']:9.1f} s {part['share']:5.0%}{device}  {meaning}".rstrip()
