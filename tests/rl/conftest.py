from __future__ import annotations

from typing import Any

import pytest
import torch

import rl.tasks.atari
from rl.tasks.atari import AtariEnvs
from tests.rl.catch import CatchPool


@pytest.fixture
def one_thread() -> Any:
    """torch computes in one thread, as the results that are compared bit for bit did."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def catch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play Catch instead of Atari."""

    def make(game: str, protocol: object, env: object, *, num_envs: int, seed: int, **options: Any) -> AtariEnvs:
        return AtariEnvs(CatchPool(num_envs, seed), num_envs, episodic_life=False)

    monkeypatch.setattr(rl.tasks.atari, "make_envs", make)
