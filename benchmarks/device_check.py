"""Is the pipeline on a device right, and how fast is it? For a machine with a GPU, within minutes, from a checkout:

    python -m benchmarks.device_check [--device cuda] [--seconds 280]

Correct are: the replay on the device beside the one on the host, prioritized drawing, updates in CUDA graphs beside the
same updates kernel by kernel, no waiting between logs, two deterministic runs. Then the environment steps per second of
DQN (batch 32, one update per 4 steps) and PQN with where they go, and the peak of the device's memory. One table; the
exit code is 1 where something is wrong, 3 where all is right and an aim is missed. With `--device cpu` it rehearses all
that in small sizes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before a device is used

import numpy as np
import torch
from torch import nn

from benchmarks.checks import Setting, Skip, Slow, run_all
from benchmarks.random_steps import fill, random_steps
from benchmarks.started import started
from evaluation.runs.hardware import deterministic
from evaluation.runs.run_folder import read_metrics
from rl import algorithms, train
from rl.algorithms.dqn import QLearner
from rl.algorithms.pqn import RolloutLearner
from rl.algorithms.resident_dqn import ResidentDQN
from rl.algorithms.resident_pqn import ResidentPQN
from rl.algorithms.rollout import Rollout
from rl.config import TrainConfig
from rl.convolution import Convolution, Output
from rl.profile import NoProfile
from rl.replay.device_ring import DeviceReplay
from rl.replay.prioritized import Prioritized
from rl.replay.ring import FrameReplay, Layout
from rl.tasks import ObservationSpec
from rl.trainer import Trainer

AIMS = {"dqn": 10_000, "pqn": 15_000}  # environment steps per second, on an H100 or H200 with 16 cores
SPEEDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("dqn", "dqn", {}),
    ("dqn, 64 environments, overlap", "dqn", {"env": {"num_envs": 64}, "overlap": True}),
    ("dqn, 64, overlap, compile", "dqn", {"env": {"num_envs": 64}, "overlap": True, "compile": True}),
    ("dqn, 128, overlap, compile", "dqn", {"env": {"num_envs": 128}, "overlap": True, "compile": True}),
    ("pqn", "pqn", {}),
    ("pqn, overlap, compile", "pqn", {"overlap": True, "compile": True}),
)
SIDE = 84
SMALL = {"precision": "fp32", "network": {"channels": [4], "kernels": [4], "strides": [4], "hidden": 16}}
RATE = 2.0**-13  # a learning rate that float32 holds: a graph's tensor and a number are the same


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks and print the table; returns the exit code."""
    return run_all("python -m benchmarks.device_check", __doc__.split("\n\n")[0], checks, argv)


def checks() -> list[tuple[str, Callable[[Setting], str]]]:
    """Names and checks: each returns a note, or raises."""
    made: list[tuple[str, Callable[[Setting], str]]] = [("replay beside the host's", replay_beside_the_hosts)]
    made.append(("priorities beside the host's", priorities_beside_the_hosts))
    made.append(("layers beside PyTorch's", layers_beside_pytorchs))
    for optimizer in ("asgc", "adam"):
        for prioritized in (False, True):
            name = f"graph = eager, {optimizer}{', prioritized' if prioritized else ''}"
            made.append((name, lambda s, o=optimizer, p=prioritized: graph_equals_eager(s, o, p)))  # type: ignore[misc]
    made.append(("graph = eager, pqn", rollouts_graph_equals_eager))
    for algorithm in algorithms.ALGORITHMS:
        made.append((f"no waiting between logs, {algorithm}", lambda s, a=algorithm: no_waiting(s, a)))  # type: ignore[misc]
        made.append((f"deterministic twice, {algorithm}", lambda s, a=algorithm: deterministic_twice(s, a)))  # type: ignore[misc]
    for name, algorithm, options in SPEEDS:
        made.append((f"speed of {name}", lambda s, a=algorithm, o=options: speed(s, a, **o)))  # type: ignore[misc]
    return made


# Correct --------------------------------------------------------------------------------------------------------------


def layout_of(setting: Setting, slots: int, n_step: int = 3) -> Layout:
    return Layout(16 * slots, 16, (12, 12) if setting.small else (SIDE, SIDE), 4, n_step, 0.99)


def replay_beside_the_hosts(setting: Setting) -> str:
    """All valid transitions of a full ring, the newest stacks, and that draws are valid and uniform."""
    layout = layout_of(setting, 60)
    host, there = FrameReplay(layout), DeviceReplay(layout, setting.device)
    fill(host, 200)
    fill(there, 200)
    rows = np.flatnonzero(host._valid.reshape(-1))
    assert len(rows) > 400, "few transitions are valid"
    expected, found = host.transitions(rows), there.gather(torch.from_numpy(rows).to(setting.device))
    for name, value in vars(expected).items():
        got = getattr(found, name).cpu()
        if value.is_floating_point():
            torch.testing.assert_close(got, value, rtol=1e-6, atol=1e-7, msg=name)
        else:
            assert torch.equal(got, value), name
    newest = host._observations(np.full(16, host._newest), np.arange(16))
    assert torch.equal(there.newest_observations().cpu(), newest), "newest stacks"
    drawn = there.draw(100_000, torch.Generator(setting.device).manual_seed(1)).cpu().numpy()
    assert host._valid.reshape(-1)[drawn].all(), "drew what is not valid"
    counts = np.bincount(drawn, minlength=layout.slots * 16)[rows]
    chi = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    assert chi < len(rows) + 5 * np.sqrt(2 * len(rows)), (
        f"draws are not uniform: chi-square {chi:.0f}, {len(rows)} rows"
    )
    return f"{len(rows)} transitions"


def priorities_beside_the_hosts(setting: Setting) -> str:
    size, generator = 5_000 if setting.small else 1_000_000, torch.Generator().manual_seed(0)
    host, there = Prioritized(size, 0.5, 32), Prioritized(size, 0.5, 32, setting.device)
    for _ in range(20):
        rows = torch.randperm(size, generator=generator)[: size // 4]
        valid = torch.rand(len(rows), generator=generator) < 0.8
        some = rows[:512]
        errors = torch.rand(512, generator=generator) * 3
        for one in (host, there):
            device = one.tree.flat.device
            one.changed(rows.to(device), valid.to(device))
            one.update(some.to(device), errors.to(device))
    torch.testing.assert_close(there.tree.flat.cpu(), host.tree.flat, rtol=1e-9, atol=1e-9)
    uniform = torch.rand(32 * 64, dtype=torch.float64, generator=generator)
    found, expected = there.find(uniform.to(setting.device)).cpu(), host.find(uniform)
    assert (host.tree.leaves[found] > 0).all(), "drew a row without priority"
    other = int((found != expected).sum())
    assert other <= 2, f"{other} of {len(found)} draws differ"
    return f"{size:,} rows, {other} of {len(found):,} draws at a neighbour (rounding)"


def graph_equals_eager(setting: Setting, optimizer: str, prioritized: bool) -> str:
    """Parameters, losses and priorities after updates on the same draws, to the last bit."""
    results, count = [], 24 if setting.small else 60
    with deterministic(True):
        for graphs in ("never", "always"):
            config = TrainConfig.preset(
                "dqn",
                cuda_graphs=graphs,
                prioritized={"enabled": prioritized},
                optimizer={"name": optimizer, "lr": RATE},
                **(SMALL if setting.small else {}),
            )
            torch.manual_seed(0)
            layout = layout_of(setting, 60)
            spec = ObservationSpec((4, *layout.frame_shape), np.uint8)
            learner = QLearner(config, 4, spec, setting.device, updates=count)
            priorities = Prioritized(layout.slots * 16, 0.5, 32, setting.device) if prioritized else None
            replay = DeviceReplay(layout, setting.device, priorities)
            fill(replay, 80)
            resident = ResidentDQN(config, learner, replay, count, NoProfile())
            losses = [values["loss"].clone() for _ in range(count // 4) for values in resident.updates(4, 0.4)]
            state = [priorities.tree.flat] if priorities is not None else []
            results.append([*losses, *(p.detach().clone() for p in learner.network.parameters()), *state])
            assert resident.captured == (graphs == "always"), "captured what should not be, or the other way round"
    return equal(results, count)


def rollouts_graph_equals_eager(setting: Setting) -> str:
    """Parameters and losses after updates on one rollout, to the last bit, and what is acted by."""
    results, count, side = [], 12 if setting.small else 60, 12 if setting.small else SIDE
    with deterministic(True):
        for graphs in ("never", "always"):
            sizes = {"pqn": {"rollout_steps": 8, "minibatches": 2}, "env": {"num_envs": 64}}
            settings: dict[str, Any] = {**sizes, "optimizer": {"lr": RATE}, **(SMALL if setting.small else {})}
            config = TrainConfig.preset("pqn", cuda_graphs=graphs, **settings)
            torch.manual_seed(0)
            spec, rng = ObservationSpec((4, side, side), np.uint8), np.random.default_rng(0)
            learner = RolloutLearner(config, 4, spec, setting.device, updates=count)
            rollout = Rollout(8, 64, spec, 0.99, 0.65, setting.device, stacks=True)
            step = random_steps(rng, 64, 4, side)
            rollout.start(step().observation)
            resident = ResidentPQN(config, learner, [rollout], count, NoProfile())
            for _ in range(8):
                best, greedy = resident.look(rollout.newest)
                rollout.led_to(best)
                rollout.add(greedy, result := step())
                assert np.array_equal(rollout.newest.cpu(), result.observation), "stacks"
            rollout.led_to(best)
            resident.begin(rollout)
            rows = resident.rows(torch.from_numpy(rng.integers(8 * 64, size=(count, 256))))
            losses = [resident.update(rollout, row)["loss"].clone() for row in rows]
            results.append([*losses, *(p.detach().clone() for p in learner.network.parameters())])
            results[-1] += [torch.from_numpy(best), torch.from_numpy(greedy)]
    return equal(results, count)


def layers_beside_pytorchs(setting: Setting) -> str:
    """Outputs and gradients of convolutions in blocks and of the output as sums, in float64."""
    cases: list[tuple[Convolution | Output, tuple[int, ...]]]
    cases = [
        (Convolution(4, 32, 8, 4), (4, 84, 84)),
        (Convolution(32, 64, 4, 2), (32, 20, 20)),
        (Output(512, 6), (512,)),
    ]
    for layer, shape in cases:
        layer.to(setting.device, torch.float64)
        x = torch.rand((32, *shape), dtype=torch.float64, device=setting.device, requires_grad=True)
        outputs = (
            (layer.sums(x), nn.Linear.forward(layer, x))
            if isinstance(layer, Output)
            else (layer.blockwise(x), nn.Conv2d.forward(layer, x))
        )
        weight = torch.rand(outputs[0].shape, dtype=torch.float64, device=setting.device)
        ours, theirs = ([y, *torch.autograd.grad(y, [x, *layer.parameters()], weight)] for y in outputs)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
    return "two convolutions, an output"


def equal(results: Sequence[Sequence[torch.Tensor]], count: int) -> str:
    """What two runs of so many updates gave."""
    worst = max(float((a.double() - b.double()).abs().max()) for a, b in zip(*results, strict=True))
    assert worst == 0, f"they differ by up to {worst:.3g}"
    return f"{count} updates to the last bit"


def no_waiting(setting: Setting, algorithm: str) -> str:
    """torch's own look-out for waits, over steps with updates that nobody records."""
    if not setting.gpu:
        raise Skip("only a GPU can be waited for")
    with trainer_of(setting, algorithm, gradients={"enabled": False}) as trainer:
        forward(trainer, 10_000)
        torch.cuda.set_sync_debug_mode("error")
        try:
            forward(trainer, 5_000)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "5,000 environment steps"


def deterministic_twice(setting: Setting, algorithm: str) -> str:
    """All metrics and weights of two whole runs."""
    needs_envpool()
    steps, runs = (200, []) if setting.small else (6_000, [])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            path = Path(folder) / name
            preset = "quick" if algorithm == "dqn" else "pqn-quick"
            options = short(setting, steps, algorithm)
            train(TrainConfig.preset(preset, **options, run_dir=str(path), deterministic=True))
            values = [
                (row.step, row.split, row.name, row.value) for row in read_metrics(path) if not row.name.endswith("_s")
            ]
            runs.append((values, torch.load(path / "model.pt", weights_only=True, map_location="cpu")["network"]))
    (values, weights), (others, other_weights) = runs
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights), "the weights differ"
    assert repr(values) == repr(others), "the metrics differ"
    return f"two runs of {steps:,} environment steps, {len(values)} metrics"


# Fast -----------------------------------------------------------------------------------------------------------------


def short(setting: Setting, steps: int, algorithm: str) -> dict[str, Any]:
    """Options of a short run."""
    common = {"device": str(setting.device), "total_steps": steps, "tensorboard": False}
    common |= {"game": "Pong", "evaluation": {"interval": 10**9, "final_episodes": 1}}
    own = {"learning_starts": steps // 4, "replay_size": 20_000} if algorithm == "dqn" else {}
    if not setting.small:
        return common | own
    rollouts = {"rollout_steps": 8, "minibatches": 2}
    few = {"train_every": 16, "batch_size": 8} if algorithm == "dqn" else {"pqn": rollouts}
    return common | own | few | SMALL | {"game": "Breakout", "cuda_graphs": "always", "env": {"num_envs": 4}}


def speed(setting: Setting, algorithm: str, **options: Any) -> str:
    """Environment steps per second after the graphs are made, where they go, and the peak of the memory."""
    seconds = 0.2 if setting.small else 6.0
    if setting.gpu:
        torch.cuda.reset_peak_memory_stats()
    with deterministic(False), trainer_of(setting, algorithm, profile=True, **options) as trainer:
        forward(trainer, 200 if setting.small else 10_000)
        trainer.profile.clear()
        start, before = time.perf_counter(), trainer.step
        while time.perf_counter() - start < seconds:
            trainer.advance()
        if setting.gpu:
            torch.cuda.synchronize()
        rate = (trainer.step - before) / (time.perf_counter() - start)
        print("\n".join(trainer.profile.lines()), flush=True)
    peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if setting.gpu else ""
    note = f"{rate:,.0f} environment steps/s (aim {AIMS[algorithm]:,}){peak}"
    if setting.gpu and rate < AIMS[algorithm]:
        raise Slow(note)
    return note


@contextlib.contextmanager
def trainer_of(setting: Setting, algorithm: str, **options: Any) -> Iterator[Trainer]:
    """A trainer of Pong in a folder of its own, started; it acts greedily from the start, as late in a run."""
    needs_envpool()
    options = {"game": "Pong", "device": str(setting.device), "tensorboard": False, **options}
    if algorithm == "dqn":
        options |= {"replay_size": 200_000, "learning_starts": 2_000}
    if setting.small:
        options |= {"compile": False, **short(setting, 10_000, algorithm)}
        options |= {"learning_starts": 100} if algorithm == "dqn" else {}
    config = TrainConfig.preset(algorithm, **options, exploration={"steps": 1})
    with started(config) as trainer:
        yield trainer


def forward(trainer: Trainer, steps: int) -> None:
    """At least so many environment steps."""
    until = trainer.step + steps
    while trainer.step < until:
        trainer.advance()


def needs_envpool() -> None:
    if importlib.util.find_spec("envpool") is None:
        raise Skip("envpool is not installed")


if __name__ == "__main__":
    sys.exit(main())
