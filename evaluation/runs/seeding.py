"""Independent seeds from one seed, and the state of the global random generators."""

from __future__ import annotations

import hashlib
import json
import operator
import random
from typing import Any

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^31) for the purpose `names`, a pure function of its arguments.

    Different names (or a different order, or ``1`` instead of ``"1"``) give unrelated seeds, the same ones always the
    same seed: on every machine, in every process and Python version, unlike `hash`. Example: ``derive(seed, "envs",
    checkpoint)``.
    """
    key = json.dumps(
        [operator.index(seed), *(name if isinstance(name, str) else operator.index(name) for name in names)]
    )
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (CPU and every CUDA device) from `seed`, each on its
    own."""
    import torch  # takes a second or two: not for those who only derive seeds

    random.seed(derive(seed, "python"))
    np.random.seed(derive(seed, "numpy"))  # noqa: NPY002 - the global generator is what libraries draw from
    torch.manual_seed(derive(seed, "torch"))


def rng_state() -> dict[str, Any]:
    """The state of the global generators of Python, NumPy, torch's CPU and every CUDA device.

    Tensors, tuples and numbers only, so that ``torch.load(weights_only=True)`` reads it. A generator of your own
    (`numpy.random.Generator`) is not in it: save its ``bit_generator.state`` beside it.
    """
    import torch

    algorithm, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (algorithm, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned, also after a round trip through `torch.save`.

    CUDA states are restored when as many devices are there as were saved; a run that goes on on another kind of device
    cannot be bit for bit the same in any case.
    """
    import torch

    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    algorithm, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((algorithm, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
