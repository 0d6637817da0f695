"""The gradient recorder: what every layer's gradient looks like before and after clipping, through a run.

    <run>/gradients/part-NNNNNN.parquet     one row per (recorded update, layer), columns `gradient_columns.COLUMNS`

Recorded are every `interval`-th update and, around the first shift of the loss (target-network synchronization) after
each of those, the updates at given offsets. The training never notices: nothing of it is changed, no generator is used.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from evaluation.cli.errors import UserError, reason
from evaluation.files import atomic_path
from evaluation.runs import gradient_columns as gradients

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

FOLDER = "gradients"  # in the run folder
OFFSETS = (-1, 0, 1, 2, 5, 10, 20, 50)
INTERVAL, SHIFT = "interval", "shift"
_PART = re.compile(r"part-(\d{6,})\.parquet")

Row = dict[str, Any]


class GradientRecorder:
    """Records the gradients of one optimizer.

    Args:
        folder: where the parts go; made at the first `flush`.
        named_parameters: (name, parameter) of the layers to record.
        optimizer: any optimizer; what its rule sees comes from `asgc.preview`.
        interval: updates from one regular record to the next.
        offsets: updates after a shift that are recorded (0: the first one with the new loss), of one shift after each
            regular record; -1 is the last update before it.

    Use::

        event = recorder.due(update, shift_follows)
        if event is not None:
            with recorder.record(step, update, event):   # after backward()
                optimizer.step()
        ...
        recorder.shift(updates)                          # when the loss has changed
        recorder.flush()                                 # with each checkpoint, which keeps recorder.state_dict()
    """

    START: ClassVar[dict[str, Any]] = {"parts": 0, "shifted": None, "armed": False, "tracking": False}  # a new run

    def __init__(
        self,
        folder: Path,
        named_parameters: Iterable[tuple[str, Tensor]],
        optimizer: Optimizer,
        *,
        interval: int,
        offsets: Sequence[int] = OFFSETS,
    ) -> None:
        self.folder = folder
        self.interval = interval
        self.offsets = frozenset(offsets)
        self._names = {id(param): name for name, param in named_parameters}
        self._optimizer = optimizer
        self._parts = 0  # written so far
        self._shifted: int | None = None  # updates done at the last shift
        self._armed = False  # the next shift is to be recorded
        self._tracking = False  # the last shift is
        self._rows: list[Row] = []

    # When --------------------------------------------------------------------------------------------------------

    def due(self, update: int, shift_follows: bool = False) -> str | None:
        """Why update number `update` (from 0) is to be recorded: "interval", "shift", or None.

        Ask for every update, in order. `shift_follows`: the loss will change between this update and the next.
        """
        if update % self.interval == 0:
            self._armed = True
            return INTERVAL
        before = self._armed and shift_follows and -1 in self.offsets
        after = self._tracking and self.since_shift(update) in self.offsets
        return SHIFT if before or after else None

    def shift(self, updates: int) -> None:
        """The loss has changed after so many updates. Before the first update that means nothing."""
        if updates > 0:
            self._shifted = updates
            self._tracking, self._armed = self._armed, False

    def since_shift(self, update: int) -> int:
        """Updates between the last shift and this one; -1 before any shift."""
        return -1 if self._shifted is None else update - self._shifted

    # What --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def record(self, step: int, update: int, event: str) -> Iterator[None]:
        """Record the optimizer step taken in the block, the gradients being there already.

        Args:
            step: environment steps (or samples) so far.
            update: its number.
            event: what `due` returned.
        """
        from asgc.preview import preview

        head = {"step": step, "update": update, "event": event, "since_shift": self.since_shift(update)}
        layers = [layer for layer in preview(self._optimizer) if id(layer.param) in self._names]
        raw = [layer.param.grad for layer in layers if layer.param.grad is not None]
        before = _describe(raw)
        seen = [layer.seen for layer in layers]
        after = before if all(map(operator.is_, raw, seen)) else _describe(seen)
        weights = [layer.param.detach() for layer in layers]
        old = [weight.clone() for weight in weights]
        yield
        change = _rms([new - weight for new, weight in zip(weights, old, strict=True)])
        for layer, one, other, update_rms, weight_rms in zip(layers, before, after, change, _rms(old), strict=True):
            self._rows.append(
                {
                    **head,
                    "layer": self._names[id(layer.param)],
                    "numel": layer.param.numel(),
                    "grad_rms": one.rms,
                    "grad_max": one.largest,
                    "after_rms": other.rms,
                    **{name: getattr(layer, name) for name in ("threshold", "clipped", "attenuation", "noise_std")},
                    "update_rms": update_rms,
                    "weight_rms": weight_rms,
                    "update_to_weight": update_rms / weight_rms if weight_rms > 0 else math.inf if update_rms else 0.0,
                    "tail_index": one.tail_index,
                    "tail_index_after": other.tail_index,
                    "clip_factor": layer.clip_factor,
                    "clip_sharpness": layer.clip_sharpness,
                    "before": one.histogram,
                    "after": other.histogram,
                }
            )

    # On the disk ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was recorded since the last call as a part of its own, if anything was.

        Raises:
            UserError: it cannot be written; the rows stay for another try.
        """
        if not self._rows:
            return
        import pyarrow
        from pyarrow import parquet

        path = self.folder / f"part-{self._parts:06d}.parquet"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as file:  # pyarrow wants paths that are UTF-8
                table = pyarrow.Table.from_pylist(self._rows, schema=schema())
                parquet.write_table(table, file, compression="zstd")
        except OSError as error:
            raise UserError(f"cannot write {path}: {reason(error)}; free some space, then --resume") from error
        self._parts += 1
        self._rows = []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; `flush` first."""
        return {"parts": self._parts, "shifted": self._shifted, "armed": self._armed, "tracking": self._tracking}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, or from `START`: parts written after it are removed, and recorded again."""
        self._parts, self._shifted = state["parts"], state["shifted"]
        self._armed, self._tracking = state["armed"], state["tracking"]
        self._rows = []
        for number, path in _numbered(self.folder):
            if number >= self._parts:
                path.unlink()
        for leftover in self.folder.glob(".*.tmp"):  # of `atomic_path`, when its process was killed
            leftover.unlink(missing_ok=True)


def part_paths(run: Path) -> list[Path]:
    """The parts of a run folder in order; none where nothing was recorded."""
    return [path for _, path in sorted(_numbered(run / FOLDER))]


@functools.cache
def schema() -> Any:
    """The pyarrow schema of a part."""
    import pyarrow

    types = (
        dict.fromkeys(gradients.INTEGERS, pyarrow.int64())
        | dict.fromkeys(gradients.TEXTS, pyarrow.string())
        | dict.fromkeys(gradients.FIGURES, pyarrow.float64())
        | dict.fromkeys(gradients.HISTOGRAMS, pyarrow.list_(pyarrow.int64()))
    )
    return pyarrow.schema([(name, types[name]) for name in gradients.COLUMNS])


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = ((_PART.fullmatch(path.name), path) for path in folder.iterdir())
    return [(int(match[1]), path) for match, path in found if match]


class _Description(NamedTuple):
    """Of a layer's gradient."""

    rms: float
    largest: float
    tail_index: float | None  # null where there is none, which SQL's aggregates leave out
    histogram: list[int]


def _describe(tensors: list[Tensor]) -> list[_Description]:
    if not tensors:
        return []
    import torch

    sizes = [tensor.numel() for tensor in tensors]
    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]).abs_()
    parts = flat.split(sizes)
    largest = torch.stack([part.max() if part.numel() else part.new_zeros(()) for part in parts]).tolist()
    indices = [gradients.tail_index(part, top) for part, top in zip(parts, largest, strict=True)]
    shown = [None if math.isnan(index) else index for index in indices]
    return list(map(_Description, _rms(parts), largest, shown, gradients.histograms(flat, sizes)))


def _rms(tensors: Sequence[Tensor]) -> list[float]:
    """Root mean squares in float64."""
    if not tensors:
        return []
    import torch

    norms = torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]).tolist()
    return [norm / math.sqrt(max(1, tensor.numel())) for norm, tensor in zip(norms, tensors, strict=True)]
