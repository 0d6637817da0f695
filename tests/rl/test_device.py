"""The way to a device and back, where the device is the CPU."""

from __future__ import annotations

import numpy as np
import torch

from rl.device import Download, Upload

CPU = torch.device("cpu")


def test_arrays_go_up_together_and_two_sends_do_not_meet() -> None:
    upload = Upload({"frames": ((2, 3), np.uint8), "reward": ((2,), np.float32), "slot": ((1,), np.int64)}, CPU)
    frames = np.arange(6, dtype=np.uint8).reshape(2, 3)
    first = upload.send(frames=frames, reward=[0.5, -1.0], slot=2**40)
    frames += 1  # the caller's own again
    second = upload.send(frames=frames, reward=[2.0, 3.0], slot=5)
    assert first["frames"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert first["reward"].tolist() == [0.5, -1.0]
    assert first["slot"].tolist() == [2**40]
    assert second["frames"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert {name: tensor.dtype for name, tensor in first.items()} == {
        "frames": torch.uint8,
        "reward": torch.float32,
        "slot": torch.int64,
    }
    upload.send(slot=7)
    assert first["slot"].tolist() == [7], "the buffer of two sends ago"


def test_what_was_taken_stays() -> None:
    download = Download((3,), torch.int64, CPU)
    download.ask(torch.tensor([1, 2, 3]))
    taken = download.take()
    download.ask(torch.tensor([4, 5, 6]))
    assert taken.tolist() == [1, 2, 3]
    assert download.take().tolist() == [4, 5, 6]
