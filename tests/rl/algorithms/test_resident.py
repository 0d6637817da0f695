"""Q-learning on a device, rehearsed on a CPU: the same updates, what is watched runs eagerly, nothing is read back."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.runs import seeding
from evaluation.runs.run_folder import read_metrics
from rl import TrainConfig, train
from rl.algorithms.algorithm import Algorithm, Part, Setup
from rl.algorithms.dqn import DQN, UPDATES_AT_ONCE, QLearner
from rl.algorithms.pqn import PQN
from rl.algorithms.resident_dqn import ResidentDQN
from rl.device import Download
from rl.profile import NoProfile
from rl.replay.device_ring import DeviceReplay
from rl.replay.prioritized import Prioritized
from rl.replay.ring import Layout
from rl.tasks import ObservationSpec
from rl.tasks.atari import AtariEnvs
from rl.trainer import schedule_of
from tests.rl.algorithms.test_pqn import catch_config as pqn_config
from tests.rl.algorithms.test_pqn import read_events
from tests.rl.catch import SIZE, CatchPool
from tests.rl.test_graphs import Recorded
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config, weights

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def config(**options: Any) -> TrainConfig:
    return catch_config(Path("unused"), **{"cuda_graphs": "always", **options})


def playing(prioritized: bool = False) -> DeviceReplay:
    """A replay of 8 boards of Catch after 40 random steps."""
    layout = Layout(400, 8, (SIZE, SIZE), 2, 3, 0.99)
    replay = DeviceReplay(layout, CPU, Prioritized(400, 0.5, 32) if prioritized else None)
    envs, rng = AtariEnvs(CatchPool(8, 0), 8, episodic_life=False), np.random.default_rng(0)
    replay.start(envs.reset())
    for _ in range(40):
        actions = rng.integers(3, size=8)
        replay.add(actions, envs.step(actions))
    return replay


def learner(settings: TrainConfig) -> QLearner:
    torch.manual_seed(0)
    made = QLearner(settings, 3, ObservationSpec((2, SIZE, SIZE), np.uint8), CPU, updates=20)
    for parameter in made.target_network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


def pair(settings: TrainConfig, replay: DeviceReplay) -> tuple[QLearner, ResidentDQN]:
    made = learner(settings)
    return made, ResidentDQN(settings, made, replay, 20, NoProfile())


def test_the_learning_rate_that_a_graph_reads_falls() -> None:
    settings = config(lr_schedule={"name": "linear", "end_factor": 0.5})
    made, resident = pair(settings, playing())
    (group,) = made.optimizer.param_groups
    place = group["lr"]
    for k, _ in enumerate(resident.updates(6, 1.0)):
        assert group["lr"] is place
        assert float(place) == pytest.approx(settings.optimizer.lr * (1 - 0.5 * (k + 1) / 20))
    assert made.lr_schedule.values() == {"lr": pytest.approx(float(place))}


@pytest.mark.parametrize("prioritized", [False, True])
def test_replayed_updates_equal_eager_ones_and_the_watched_run_eagerly(
    prioritized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, made = config(optimizer={"name": "asgc", "lr": 2**-9}), Recorded()

    def run(graphs: Recorded | None) -> list[Tensor]:
        monkeypatch.setattr("rl.graphs.choose", lambda *arguments: graphs)
        replay = playing(prioritized)
        one, resident = pair(settings, replay)
        done, recorded, losses = 0, [], []

        @contextlib.contextmanager
        def around(part: Part, ahead: int) -> Iterator[None]:
            recorded.append(done + ahead)
            yield

        def places() -> list[int]:
            return [p.grad.data_ptr() for p in one.network.parameters() if p.grad is not None]

        one.around_step, one.watched = around, lambda count: -done % 8 < count
        before = places()
        for _ in range(8):
            for values in resident.updates(3, 0.4):
                losses.append(values["loss"].clone())
                done += len(values["loss"])
        assert places() == before
        assert {*range(3), *range(6, 9), *range(15, 18)} <= set(recorded)  # those around 0, 8 and 16
        state = [replay.priorities.tree.flat] if replay.priorities else []
        return [*losses, *(p.detach() for p in one.network.parameters()), *state]

    for a, b in zip(run(None), run(made), strict=True):
        assert torch.equal(a, b)
    # 8 times three updates, of which three times are watched and three warm up; draws warm up three times as well.
    replays, warm = 2 + 5 * prioritized, 3 + 3 * prioritized
    assert sorted(made.events) == ["capture"] * (1 + prioritized) + ["replay"] * replays + ["warm"] * warm


def test_weights_and_errors_are_those_of_the_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is mean(w loss), and the rows' priorities become |TD error|^alpha."""
    settings, replay = config(loss="mse", prioritized={"enabled": True}, precision="fp32"), playing(prioritized=True)
    priorities = replay.priorities
    assert priorities is not None
    valid = torch.from_numpy(np.flatnonzero(replay._valid.reshape(-1)))
    priorities.update(valid, torch.linspace(0.01, 2, len(valid)))
    made, resident = pair(settings, replay)
    host = copy.deepcopy(made)
    seed = seeding.derive(settings.seed, "replay")
    uniform = torch.rand(32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = priorities.find(uniform)
    leaf = priorities.tree.leaves[rows]
    w = (leaf / leaf.min()) ** -0.4
    batch = replay.transitions(rows.numpy())
    with torch.no_grad():
        best = host.network(batch.next_observation).argmax(1, keepdim=True)
        y = batch.reward + batch.discount * host.target_network(batch.next_observation).gather(1, best)[:, 0]
        delta = y - host.network(batch.observation).gather(1, batch.action[:, None])[:, 0]
    (values,) = resident.updates(1, 0.4)
    assert float(values["loss"]) == pytest.approx(float((w * delta**2).mean()), rel=1e-5)
    torch.testing.assert_close(priorities.tree.leaves[rows], (delta.abs().double() + 1e-6) ** 0.5, rtol=1e-4, atol=1e-6)


def test_actions_are_greedy_for_the_newest_stacks(catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run: what the device chooses from its own frames is what the observations say; one tensor a step is read."""
    reads = 0
    real = DQN.act

    def act(self: DQN, observation: Any, step: int) -> Any:
        nonlocal reads
        rng = copy.deepcopy(self.rng)
        before = reads
        actions = real(self, observation, step)
        assert reads - before <= 1
        expected = self.learner.act(observation, max(0.05, 1 - 0.95 * step / 1_000), rng)
        np.testing.assert_array_equal(actions, expected)
        return actions

    def take(self: Download) -> Any:
        nonlocal reads
        reads += 1
        return self._host.numpy().copy()

    monkeypatch.setattr(DQN, "act", act)
    monkeypatch.setattr(Download, "take", take)
    train(catch_config(tmp_path / "run", cuda_graphs="always", total_steps=600))
    assert reads > 30


@pytest.mark.parametrize("schedule", ["linear", "constant"])  # updates one by one, and together
def test_between_logs_nothing_but_the_actions_is_read_back(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """`.item()`, `.tolist()`, `.cpu()`, `bool()` and the like would wait for a GPU; `from_numpy` is not pinned."""
    from rl.trainer import Trainer

    inside = False
    seen: list[str] = []

    def forbidden(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def told(*arguments: Any, **options: Any) -> Any:
            if inside:
                seen.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, told)

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero"):
        forbidden(Tensor, name)
    forbidden(torch, "from_numpy")
    real = Trainer.advance

    def advance(self: Trainer) -> Any:
        nonlocal inside
        updates = self.schedule.updates(self.step + 8)
        recorded = any(self.recording.watches(update) for update in range(self.algorithm.updates, updates))
        inside = self.step > 600 and not recorded
        try:
            return real(self)
        finally:
            inside = False

    monkeypatch.setattr(Trainer, "advance", advance)
    options: dict[str, Any] = {"prioritized": {"enabled": True}, "lr_schedule": {"name": schedule}}
    train(catch_config(tmp_path / "run", cuda_graphs="always", total_steps=1_000, **options))
    assert set(seen) == {"numpy"}
    assert len(seen) <= 50, "the actions of each of the last 50 steps"


@pytest.mark.parametrize(
    "options",
    [
        {"cuda_graphs": "always", "optimizer": {"name": "asgc"}, "network": {"standardize": True}},
        {"prioritized": {"enabled": True, "updates_per_draw": 1}, "cuda_graphs": "never"},
        {"cuda_graphs": "always", "overlap": True},
        {
            "cuda_graphs": "always",
            "overlap": True,
            "lr_schedule": {"name": "constant"},
            "train_every": 2,
            "ema_decay": 0.99,
        },
    ],
    ids=["device", "host", "overlap", "groups"],
)
def test_resumed_is_uninterrupted(catch: None, tmp_path: Path, options: dict[str, Any]) -> None:
    options = {
        "prioritized": {"enabled": True},
        "lr_schedule": {"name": "linear"},
        **options,
        "total_steps": 1_200,
        "checkpoint_interval": 600,
    }
    train(catch_config(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "killed", **options), watchers=[StopAt(900)])
    train(catch_config(tmp_path / "killed", **options, profile=True), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert (tmp_path / "killed" / "profile.json").is_file()


def test_updates_together_are_recorded_as_one_by_one(catch: None, tmp_path: Path) -> None:
    """The same ones, for the same reasons."""
    options: dict[str, Any] = {"train_every": 2, "gradients": {"interval": 37}, "total_steps": 1_200}
    for where in ("never", "always"):
        train(catch_config(tmp_path / where, cuda_graphs=where, optimizer={"name": "asgc"}, **options))
    logged = [[(row.step, row.name) for row in read_metrics(tmp_path / where)] for where in ("never", "always")]
    assert logged[0] == logged[1]
    assert sum(name == "clipped" for _, name in logged[1]) > 2  # looked at between groups, too
    events = read_events(tmp_path / "always")
    assert events == read_events(tmp_path / "never")
    assert len(events) > 15


@pytest.mark.parametrize("kind", [DQN, PQN])
def test_a_loaded_state_is_captured_anew_and_every_log_looks_for_what_is_never_finite(
    kind: type[Algorithm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph knows the tensors that a state replaces; a replay says nothing about gradients, only the host does."""
    settings = config() if kind is DQN else pqn_config(Path("unused"), cuda_graphs="always")
    spec, schedule = ObservationSpec((2, SIZE, SIZE), np.uint8), schedule_of(settings)
    algorithm = kind(Setup(settings, spec, 3, CPU, schedule, lambda updates: None))
    told: list[str] = []
    monkeypatch.setattr("rl.algorithms.resident.Captured.forget", lambda self: told.append("forgot"))
    monkeypatch.setattr("rl.algorithms.algorithm.clipping", lambda optimizer: told.append("looked"))
    algorithm.training_values(8)
    assert told == ["looked"]
    algorithm.load_state_dict(algorithm.state_dict())
    assert told == ["looked", *["forgot"] * (3 if kind is DQN else 2)]


def test_no_more_updates_go_together_than_a_graph_may_hold() -> None:
    from asgc.implementations.triton.triton_step import CAPTURES

    assert UPDATES_AT_ONCE <= CAPTURES


class Partly(torch.nn.Module):
    """A parameter that is not learned, and one that nothing reads."""

    def __init__(self, observation: Any, num_actions: int, config: Any) -> None:
        super().__init__()
        self.frozen = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.output = torch.nn.Linear(int(np.prod(observation.shape)), num_actions)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(x.flatten(1)) * self.frozen
        return output


@pytest.mark.parametrize("where", ["never", "always"])
def test_a_network_of_ones_own_need_not_learn_all_that_it_has(catch: None, tmp_path: Path, where: str) -> None:
    network = {"cls": "tests.rl.algorithms.test_resident:Partly"}
    train(catch_config(tmp_path / "run", cuda_graphs=where, total_steps=600, network=network))
    left = {name.rpartition(".")[2]: tensor for name, tensor in weights(tmp_path / "run").items()}
    assert float(left["frozen"]) == 1
    assert left["unused"].tolist() == [1, 1, 1]


def test_a_network_of_ones_own_is_captured_only_if_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may read values, which a graph cannot."""
    asked: list[str] = []
    monkeypatch.setattr("rl.graphs.choose", lambda wanted, *rest: asked.append(wanted))
    replay = playing()
    for wanted, network in (("auto", {}), ("auto", {"cls": "x:Y"}), ("always", {"cls": "x:Y"})):
        made = learner(config())
        ResidentDQN(config(cuda_graphs=wanted, network=network), made, replay, 20, NoProfile())
    assert asked == ["auto"] * 2 + ["never"] * 2 + ["always"] * 2


def test_a_run_moves_from_a_device_to_the_host_and_back(catch: None, tmp_path: Path) -> None:
    options: dict[str, Any] = {"total_steps": 1_000, "checkpoint_interval": 200, "optimizer": {"name": "asgc"}}
    for where, stop in (("always", 504), ("never", 704), ("always", 904)):
        settings = catch_config(tmp_path / "run", cuda_graphs=where, **options)
        with pytest.raises(Killed):
            train(settings, resume=stop > 504, watchers=[StopAt(stop)])
    train(catch_config(tmp_path / "run", **options), resume=True)
    assert [row.step for row in read_metrics(tmp_path / "run") if row.name == "score"] == [1_000]
