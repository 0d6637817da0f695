"""What several processes check together; ``test_parallel.py`` runs this file and reports each check as a test."""

from __future__ import annotations

import copy
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import asgc.implementations.sharded  # noqa: F401 (before the fork)
from asgc import ASGC, number_layers, wrap
from asgc.gradient_statistics import NONFINITE
from asgc.implementations.cpu.build import unavailable
from tests.asgc.harness import Gradient
from tests.asgc.implementations import resharding
from tests.asgc.implementations.ranks import Checks, run
from tests.asgc.implementations.shards import LATE, Spec, Twins, bursts, near, same_state, whole

ALL_GATHER = torch.ops.c10d._allgather_base_


def mesh_of(*shape: int) -> DeviceMesh:
    names = ("rows", "columns")[-len(shape) :]
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def raises(kind: type[Exception], *words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind) as error:
        call()
    assert all(word in str(error.value) for word in words), error.value


def same_on_all_ranks(tensors: list[Tensor]) -> bool:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, [x.detach().clone() for x in tensors])
    return all(torch.equal(x, y) for other in everyone for x, y in zip(other, everyone[0], strict=True))


# Replicas: DistributedDataParallel


def replicas(implementation: str) -> Callable[[Path], None]:
    def check(_: Path) -> None:
        if implementation == "cpu" and unavailable() is not None:
            return
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
        start = [p.detach().clone() for p in model.parameters()]
        ddp = nn.parallel.DistributedDataParallel(model)
        opt = ASGC(ddp.parameters(), 1e-2, noise_scale=0.5, implementation=implementation)
        torch.manual_seed(dist.get_rank())  # data, and generator, of its own
        for step in range(40):
            opt.zero_grad()
            x = torch.randn(4, 6) * (20 if step % 9 == 8 else 1)
            ddp(x).square().mean().backward()
            opt.step()
        assert all(bool((p != q).any()) for p, q in zip(model.parameters(), start, strict=True))
        tensors = [*model.parameters()]
        tensors += [x for state in opt.state.values() for x in state.values() if isinstance(x, Tensor)]
        assert same_on_all_ranks(tensors)

    return check


# Sharded = whole


def train_twins(twins: Twins, collectives: int) -> None:
    for step in range(7):
        twins.step()
        assert twins.collectives == {ALL_GATHER: collectives}, twins.collectives
        if step in (0, 6):
            twins.check()


def fsdp(_: Path) -> None:
    """FSDP2 with its own gradients; the root, the blocks and a bias that three elements do not divide among two."""
    mesh = mesh_of(2)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    expected = [p.detach().clone() for p in model.parameters()]
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh)
    check_model(model, expected, 1)


def check_model(model: nn.Module, expected: list[Tensor], collectives: int, **options: Any) -> None:
    """A model trains on its own gradients; the reference, on whole tensors, gets the same ones."""
    opt = ASGC(model.parameters(), 1e-2, noise_scale=0.3, **options)
    reference = ASGC(expected, 1e-2, noise_scale=0.3, implementation="reference", **options)
    found = list(model.parameters())
    for step in range(6):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)) * (20 if step == 4 else 1)
        model(x).square().sum().backward()
        for p, q in zip(found, expected, strict=True):
            q.grad = whole(p.grad)
        before = [s["stats"].clone() if (s := reference.state.get(e)) else None for e in expected]
        reference.step()
        versions = [p._version for p in found]
        with CommDebugMode() as mode:
            opt.step()
        assert mode.get_total_counts() == collectives
        assert all(p._version > version for p, version in zip(found, versions, strict=True))
        opt.zero_grad()
    same_state(reference, opt, expected, found, before)


def fsdp_on_tensor_parallel(_: Path) -> None:
    """Two mesh dimensions cut dimension 0 of one weight (``_StridedShard``); one collective a mesh dimension."""
    mesh = mesh_of(2, 2)
    for granularity in ("layer", "unit"):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5))
        expected = [p.detach().clone() for p in model.parameters()]
        parallelize_module(model, mesh["columns"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model, mesh=mesh["rows"])
        kinds = {type(placement).__name__ for p in model.parameters() for placement in p.placements}
        assert "_StridedShard" in kinds, kinds
        check_model(model, expected, 2, granularity=granularity)


def hybrid(_: Path) -> None:
    """HSDP: every element counts once, and replicas agree to the bit."""
    mesh = mesh_of(2, 2)
    torch.manual_seed(1)
    model = nn.Linear(5, 7)
    expected = [p.detach().clone() for p in model.parameters()]
    fully_shard(model, mesh=mesh)
    check_model(model, expected, 1)
    replicated = [p.to_local() for p in model.parameters()]
    everyone: list[Any] = [None] * 4
    dist.all_gather_object(everyone, [x.detach().clone() for x in replicated])
    for here, there in ((0, 2), (1, 3)):
        assert all(torch.equal(x, y) for x, y in zip(everyone[here], everyone[there], strict=True))


def uneven_specs() -> list[Spec]:
    mesh = mesh_of(3)
    return [
        ((7, 5), mesh, [Shard(0)]),  # 3, 3, 1 rows
        ((2, 40), mesh, [Shard(0)]),  # an empty shard
        ((5,), mesh, [Shard(0)]),
        ((4, 5, 2), mesh, [Shard(1)]),
        ((), mesh, [Replicate()]),
        ((0, 3), mesh, [Shard(0)]),
    ]


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"mode": "value", "granularity": "unit", "rule": "sgd", "momentum": 0.9},
    {"granularity": "unit", "rule": "rmsprop", "centered": True, "noise_at": "update"},
    {"mode": "value", "rule": "adagrad", "noise_zeros": True, "weight_decay": 0.1},
    {"mode": "value", "rule": "adamw", "amsgrad": True, "threshold": 0.5, "noise_at": "update"},
)


def uneven(options: dict[str, Any]) -> Callable[[Path], None]:
    return lambda _: train_twins(Twins(uneven_specs(), **options), collectives=1)


def low_precision(_: Path) -> None:
    twins = Twins(uneven_specs()[:4], dtype=torch.bfloat16, granularity="unit")
    for _ in range(4):
        twins.step()
    twins.check(tolerance=1e-2)
    assert twins.fast.state[twins.found[0]]["exp_avg"].dtype == torch.float32


def mixed_meshes(_: Path) -> None:
    """One collective for each process group: all ranks, pairs of ranks, rows and columns of a grid."""
    world, grid = mesh_of(4), mesh_of(2, 2)
    for granularity in ("layer", "unit"):
        specs: list[Spec] = [
            ((9, 3), world, [Shard(0)]),
            ((5, 4), grid, [Shard(0), Shard(1)]),
            ((5, 3), grid, [Shard(0), Shard(0)]),
            ((3, 7), grid, [Shard(1), Replicate()]),
            ((3,), grid["columns"], [Shard(0)]),
            ((4, 2), None, []),
        ]
        twins = Twins(specs, mode="value", granularity=granularity)
        train_twins(twins, collectives=3)


# Non-finite gradients


def with_bad(bad: float, layer: int) -> Gradient:
    def gradient(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor:
        g = bursts(step, index, param, generator)
        if index == layer:
            g.view(-1)[-1] = bad  # on one rank only
        return g

    return gradient


def contained(_: Path) -> None:
    for mode, granularity in (("norm", "layer"), ("value", "unit")):
        twins = Twins(uneven_specs()[:4], mode=mode, granularity=granularity)
        for step, bad in enumerate((float("inf"), None, float("nan"), float("inf"), None)):
            twins.step(bursts if bad is None else with_bad(bad, 0))
            if step in (0, 2, 4):
                twins.check()
        assert twins.fast.state[twins.found[0]]["stats"][NONFINITE].sum() == 3


def skipped(_: Path) -> None:
    twins = Twins(uneven_specs()[:4], nonfinite="skip")
    for step in range(5):
        before = [whole(p).clone() for p in twins.found]
        twins.step(with_bad(float("nan"), 2) if step in (2, 3) else bursts)
        if step in (2, 3):
            assert all(torch.equal(whole(p), old) for p, old in zip(twins.found, before, strict=True))
        else:
            assert not torch.equal(whole(twins.found[0]), before[0])
    twins.check()
    assert twins.fast.state[twins.found[2]]["stats"][NONFINITE] == 2
    assert twins.fast.state[twins.found[0]]["stats"][NONFINITE] == 0


def raised(_: Path) -> None:
    twins = Twins(uneven_specs()[:4], nonfinite="raise")
    twins.step()
    twins.give(with_bad(float("inf"), 2))
    before = [whole(p).clone() for p in twins.found]
    stats = [twins.fast.state[p]["stats"].clone() for p in twins.found]
    raises(RuntimeError, "group 0, parameter 2", "non-finite", call=twins.fast.step)
    assert all(torch.equal(whole(p), old) for p, old in zip(twins.found, before, strict=True))
    assert all(torch.equal(twins.fast.state[p]["stats"], old) for p, old in zip(twins.found, stats, strict=True))


def agreed_between_meshes(_: Path) -> None:
    """A parameter that only ranks 0 and 1 have (an expert) is bad: all ranks skip, or all raise."""
    world, pair = mesh_of(4), mesh_of(2, 2)["columns"]
    for policy in ("skip", "raise"):
        shared = distribute_tensor(torch.ones(8, 2), world, [Shard(0)])
        expert = distribute_tensor(torch.ones(4, 2), pair, [Shard(0)], src_data_rank=None)
        opt = ASGC([shared, expert], 0.1, nonfinite=policy)
        shared.grad = distribute_tensor(torch.ones(8, 2), world, [Shard(0)])
        bad = torch.ones(4, 2)
        bad[3, 1] = float("nan") if dist.get_rank() < 2 else 1.0
        expert.grad = distribute_tensor(bad, pair, [Shard(0)], src_data_rank=None)
        if policy == "skip":
            opt.step()
        elif dist.get_rank() < 2:
            raises(RuntimeError, "group 0, parameter 1", call=opt.step)
        else:
            raises(RuntimeError, "another rank", call=opt.step)
        assert torch.equal(shared.to_local(), torch.ones(2, 2))
        assert torch.equal(expert.to_local(), torch.ones(2, 2))


# What is told


def previewed(_: Path) -> None:
    for options in ({"mode": "value"}, {"granularity": "unit"}, {"nonfinite": "skip"}):
        twins = Twins(uneven_specs()[:4], **options)
        for step in range(2):
            twins.give(with_bad(float("inf"), 0) if step == 1 else bursts)
            state = copy.deepcopy(twins.fast.state_dict()["state"])
            seen, expected = twins.fast.preview(), twins.reference.preview()
            assert len(state) == len(twins.fast.state_dict()["state"])
            for one, other in zip(seen, expected, strict=True):
                torch.testing.assert_close(whole(one.seen), other.seen, rtol=2e-6, atol=1e-6)
                torch.testing.assert_close(torch.tensor(one[2:]), torch.tensor(other[2:]), rtol=2e-6, atol=1e-6)
            twins.step()


def wrapped(_: Path) -> None:
    """In front of another optimizer: what it sees, and that it sees nothing where the step is to be skipped."""
    specs = uneven_specs()[:4]
    for options in ({"mode": "value", "granularity": "unit"}, {"nonfinite": "skip"}):
        twins = Twins(specs)
        pair = [wrap(torch.optim.SGD(params, 0.1, momentum=0.9), **options) for params in (twins.expected, twins.found)]
        for step in range(4):
            twins.steps = step
            twins.give(with_bad(float("nan"), 1) if step == 2 else bursts)
            raw = [whole(p.grad).clone() for p in twins.found]
            for one, other in zip(*(opt.preview() for opt in pair), strict=True):
                near(other.seen, one.seen, 2e-6, "seen")
            with CommDebugMode() as mode:
                pair[1].step()
            assert mode.get_comm_counts()[ALL_GATHER] == mode.get_total_counts() == 1
            pair[0].step()
            assert all(
                torch.equal(whole(p.grad).nan_to_num(), g.nan_to_num()) for p, g in zip(twins.found, raw, strict=True)
            )
        for i, (e, f) in enumerate(zip(twins.expected, twins.found, strict=True)):
            near(f, e, 2e-6, f"parameter {i}")
            a, b = (opt.statistics[p] for opt, p in zip(pair, (e, f), strict=True))
            torch.testing.assert_close(b["stats"][: LATE[0]], a["stats"][: LATE[0]], rtol=2e-6, atol=1e-6)
            assert a["noise_step"] == b["noise_step"]


def refused(_: Path) -> None:
    mesh = mesh_of(2)
    partial = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    raises(ValueError, "head.bias", "Partial", call=lambda: ASGC([("head.bias", partial)], 0.1))
    elsewhere = DTensor.from_local(torch.ones(3), DeviceMesh("cpu", [0]), [Replicate()])
    if dist.get_rank() == 1:
        raises(ValueError, "head.bias", "mesh without this rank", call=lambda: ASGC([("head.bias", elsewhere)], 0.1))
    x = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    for implementation in ("cpu", "foreach", "reference"):
        raises(
            ValueError, implementation, "head.weight", "DTensor",
            call=lambda name=implementation: ASGC([("head.weight", x)], 0.1, implementation=name),
        )  # fmt: skip
    given = {"adapt": "hypergradient"}
    raises(
        ValueError, "sharded", "adapt='hypergradient'",
        call=lambda: ASGC([("head.weight", x)], 0.1, implementation="sharded", **given),
    )  # fmt: skip
    x.grad = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    raises(ValueError, "adapt='hypergradient'", call=ASGC([("head.weight", x)], 0.1, **given).step)
    raises(ValueError, "no parameter is a DTensor", call=lambda: ASGC([torch.ones(2)], 0.1, implementation="sharded"))
    for placement in (Partial(), Replicate()):
        opt = ASGC([("head.weight", x)], 0.1)
        x.grad = DTensor.from_local(torch.ones(4, 2), mesh, [placement])
        raises(RuntimeError, "head.weight", "redistribute", call=opt.step)
        assert torch.equal(x.to_local(), torch.ones(2, 2))
    # a state of whole tensors, as saved by one process, given to a shard
    alone = ASGC([("head.weight", plain := torch.ones(4, 2))], 0.1)
    plain.grad = torch.ones(4, 2)
    alone.step()
    opt.load_state_dict(alone.state_dict())
    x.grad = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    raises(RuntimeError, "head.weight", "set_optimizer_state_dict", call=opt.step)


def zero(_: Path) -> None:
    """Each rank's optimizer holds a part of the parameters: numbered, it does what one for all does, and resumes."""
    shapes = ((4, 3), (4, 3), (5,), (5,))

    def make() -> list[nn.Parameter]:
        return [nn.Parameter(torch.zeros(shape)) for shape in shapes]

    options = {"lr": 0.1, "noise_scale": 1.0, "implementation": "reference"}
    numbered, plain, one = make(), make(), make()
    number_layers(numbered)
    opt = ZeroRedundancyOptimizer(numbered, ASGC, **options)
    without, single = ZeroRedundancyOptimizer(plain, ASGC, **options), ASGC(one, **options)
    for step in range(4):
        for params in (numbered, plain, one):
            for p in params:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        for each in (opt, without, single):
            each.step()
        if step == 1:
            opt.consolidate_state_dict(to=0)
            saved = [opt.state_dict() if dist.get_rank() == 0 else None]
            dist.broadcast_object_list(saved)
            opt = ZeroRedundancyOptimizer(numbered, ASGC, **options)
            opt.load_state_dict(saved[0])
    assert all(torch.equal(a, b) for a, b in zip(numbered, one, strict=True))
    assert any(torch.equal(a, b) for a, b in itertools.combinations(plain, 2))  # what it is for
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(numbered, 2))


REPLICAS: Checks = {f"replicas, {name}": replicas(name) for name in ("cpu", "foreach", "reference")}
# Number of ranks (0: no process group) -> what they check, in this order.
CHECKS: dict[int, Checks] = {
    2: {**REPLICAS, "fsdp": fsdp, "refused": refused, "zero": zero, **resharding.SAVED},
    3: {
        **{f"uneven {i}": uneven(options) for i, options in enumerate(OPTIONS)},
        "low precision": low_precision,
        "contained": contained,
        "skipped": skipped,
        "raised": raised,
        "previewed": previewed,
        "wrapped": wrapped,
        **resharding.ON_THREE,
    },
    4: {
        "hybrid": hybrid,
        "fsdp on tensor parallel": fsdp_on_tensor_parallel,
        "mixed meshes": mixed_meshes,
        "agreed between meshes": agreed_between_meshes,
    },
    0: {**resharding.ON_ONE},
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = {world: run(world, checks, folder) for world, checks in CHECKS.items()}
    (folder / "results.json").write_text(json.dumps(results))
