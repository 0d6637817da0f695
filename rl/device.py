"""The way to a device and back: pinned buffers, copied without waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

_ALIGNED = 16  # bytes
BUFFERS = 2  # one is on its way while the next is filled


class Upload:
    """Arrays of fixed shapes that go to a device together, in one copy.

    They are put into a pinned buffer, so that the copy is the device's work and the host goes on. There are two
    buffers: one that is still on its way is not written to.

    Args:
        fields: name -> (shape, NumPy type) of each array.
        device: where to; on a CPU the copy is an ordinary one.
    """

    def __init__(self, fields: Mapping[str, tuple[tuple[int, ...], Any]], device: torch.device) -> None:
        self._next = 0
        self._buffers = [_Buffer(fields, device) for _ in range(BUFFERS)]

    def send(self, **arrays: ArrayLike) -> dict[str, Tensor]:
        """The arrays on the device, by name. They are overwritten in the second call after this one."""
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % BUFFERS
        return buffer.send(arrays)


class _Buffer:
    def __init__(self, fields: Mapping[str, tuple[tuple[int, ...], Any]], device: torch.device) -> None:
        places, size = {}, 0
        for name, (shape, dtype) in fields.items():
            count = int(np.prod(shape)) * np.dtype(dtype).itemsize
            places[name] = size, size + count, shape, np.dtype(dtype)
            size += -(-count // _ALIGNED) * _ALIGNED
        pinned = device.type == "cuda"
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._sent = torch.cuda.Event() if pinned else None
        flat = self._host.numpy()
        self._filled = {
            name: flat[start:stop].view(dtype).reshape(shape) for name, (start, stop, shape, dtype) in places.items()
        }
        self._arrived = {
            name: self._device[start:stop].view(getattr(torch, dtype.name)).view(shape)
            for name, (start, stop, shape, dtype) in places.items()
        }

    def send(self, arrays: Mapping[str, ArrayLike]) -> dict[str, Tensor]:
        if self._sent is not None:
            self._sent.synchronize()  # of two sends ago: done, as a rule
        for name, array in arrays.items():
            self._filled[name][...] = array
        self._device.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()
        return self._arrived


class Download:
    """A tensor's way to the host through pinned memory; the host waits for this copy and what comes before it."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._host = torch.empty(shape, dtype=dtype, pin_memory=pinned)
        self._event = torch.cuda.Event() if pinned else None

    def ask(self, tensor: Tensor) -> None:
        """Send it on its way."""
        self._host.copy_(tensor, non_blocking=True)
        if self._event is not None:
            self._event.record()

    def take(self) -> NDArray[Any]:
        """Wait until it is here."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy().copy()


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which streams, events and graphs are those of this device, where there are several GPUs."""
    return contextlib.nullcontext() if device.index is None else torch.cuda.device(device)
