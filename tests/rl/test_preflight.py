"""What comes before a run and its resume: what the machine chooses and a run keeps, other versions' runs, space."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from evaluation.cli.errors import UserError
from evaluation.files import read_json
from evaluation.runs.run_folder import chosen, load_config
from evaluation.runs.watchers import Watcher
from rl import TrainConfig, load_agent, train
from rl.algorithms.dqn import PRIORITY_BYTES
from rl.preflight import ON_A_GPU, check_resources, choose, playing_threads
from tests.rl.catch import SIZE
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config

pytestmark = pytest.mark.usefixtures("one_thread")


def interrupted(run: Path, **options: Any) -> TrainConfig:
    """The configuration of a run that has a checkpoint."""
    config = catch_config(run, **options)
    with pytest.raises(Killed):
        train(config, watchers=[StopAt(1_000)])
    return config


def test_what_the_machine_chose_is_recorded_and_kept(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardware = "evaluation.runs.hardware.cpu_multiplies_bf16"
    monkeypatch.setattr(hardware, lambda: False)
    auto: dict[str, Any] = {"precision": "auto", "device": "auto"}
    config = interrupted(tmp_path / "run", **auto)
    expected = {"device": "cpu", "precision": "fp32", "channels_last": True, "threads": 1}
    assert chosen(tmp_path / "run") == expected
    assert load_config(tmp_path / "run")["precision"] == "auto"
    monkeypatch.setattr(hardware, lambda: True)  # moved to a machine that would choose otherwise
    train(config, resume=True)
    assert chosen(tmp_path / "run") == expected
    monkeypatch.setattr(hardware, lambda: False)
    train(catch_config(tmp_path / "whole", **auto))
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert load_agent(tmp_path / "run", "cpu")._precision == "fp32"


@pytest.mark.parametrize(
    ("free", "options", "expected"),
    [
        (8, {}, (4, 4)),
        (1, {}, (1, 7)),
        (5, {}, (2, 6)),
        (8, {"threads": 3}, (3, 5)),
        (8, {"threads": 9}, (9, 1)),
        (8, {"env": {"threads": 2}}, (6, 2)),
        (8, {"env": {"threads": 9}}, (1, 9)),
        (8, {"overlap": False}, (8, 0)),
        (8, {"name": "quick", "overlap": True}, (8, 0)),
        (8, {"game": "CartPole", "name": "pqn-control", "overlap": True}, (1, 1)),  # its preset says so
    ],
)
def test_learning_and_playing_share_the_cores(
    free: int, options: dict[str, Any], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of torch, and of EnvPool in training, where PQN's environments step while it learns; 8 cores."""
    monkeypatch.setattr("rl.preflight.select_threads", lambda given, most=None: min(free, most or free))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    config = TrainConfig.preset(**{"name": "pqn-quick", "game": "Pong", "device": "cpu", **options})
    full, _ = choose(config, None)
    assert (full.threads, playing_threads(full)) == expected
    assert full.env.threads == config.env.threads, "evaluations have the cores for themselves"
    full.device = "cuda"
    assert playing_threads(full) == config.env.threads


def test_where_the_machine_cannot_do_what_was_chosen_it_says_so(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardware = "evaluation.runs.hardware.cpu_multiplies_bf16"
    monkeypatch.setattr(hardware, lambda: True)
    config = interrupted(tmp_path / "run", precision="auto")
    monkeypatch.setattr(hardware, lambda: False)
    full, lines = choose(config, tmp_path / "run")
    assert full.precision == "bf16"
    assert lines == ["precision bf16 is slow here, for want of the hardware; the run began with it and stays"]
    assert choose(config, None)[0].precision == "fp32"
    # Said with a flag, it is the same run; another value is not.
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "run", precision="bf16"), resume=True, watchers=[StopAt(1_500)])
    with pytest.raises(UserError, match="precision 'auto' -> 'fp32'"):
        train(catch_config(tmp_path / "run", precision="fp32"), resume=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_gpu_that_is_gone_can_go_on_as_the_message_says(catch: None, tmp_path: Path) -> None:
    config = interrupted(tmp_path / "run")
    path = tmp_path / "run" / "provenance.json"
    record = read_json(path)
    record["chosen"]["device"] = "cuda"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"was trained on cuda, which is not here: .* with --device cpu"):
        train(config, resume=True)
    display = StopAt(1_500)
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "run", device="cpu"), resume=True, watchers=[display])
    said = "device cuda -> cpu: from here on not with the numbers of the uninterrupted run"
    assert said in display.said
    assert chosen(tmp_path / "run")["device"] == "cpu"
    display = StopAt(10**9)
    train(config, resume=True, watchers=[display])  # from now on without the flag
    assert said not in display.said


def test_a_run_of_another_version_goes_on_and_can_be_played(catch: None, tmp_path: Path) -> None:
    config = interrupted(tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    del values["double"], values["segment_steps"], values["evaluation"]["last_k"]
    path.write_text(yaml.safe_dump({**values, "dueling": False, "env": {**values["env"], "crop": 3}}))
    display = StopAt(10**9)
    assert load_agent(tmp_path / "run").step == 704
    with pytest.raises(UserError, match="gamma"):
        train(catch_config(tmp_path / "run", gamma=0.5), resume=True)
    train(config, resume=True, watchers=[display])
    assert f"{path}: dueling, env.crop: options of another version, left out" in display.said
    train(catch_config(tmp_path / "whole"))
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    # What playing does not depend on may have values that are refused today.
    path.write_text(path.read_text().replace("loss: huber", "loss: quantile"))
    assert load_agent(tmp_path / "run").step == 2_000
    path.write_text(path.read_text().replace("hidden: 32", "hidden: 33"))
    with pytest.raises(UserError, match=r"model.pt is not of the network .* play it with the version"):
        load_agent(tmp_path / "run")


def test_a_resume_that_cannot_be_held_gets_advice_that_can_be_followed(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replay would be refused as another configuration."""
    config = interrupted(tmp_path / "run")
    monkeypatch.setattr("evaluation.runs.resources.available_disk", lambda path: 1_000)
    with pytest.raises(UserError, match=r"1\.0 kB free; free some$"):
        train(config, resume=True)
    monkeypatch.setattr("evaluation.runs.resources.available_memory", lambda *a, **k: 1_000_000)
    with pytest.raises(UserError, match="free some, or go on on a larger machine"):
        train(config, resume=True)


def test_a_gpu_must_hold_the_replay_and_what_is_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = catch_config(tmp_path / "run", prioritized={"enabled": True})
    frames = 4_000 * (SIZE * SIZE + 11)
    needed = frames + 4_000 * PRIORITY_BYTES + ON_A_GPU
    free = needed - 1

    def available(device: str = "cpu", **options: Any) -> int:
        return free if device.startswith("cuda") else 10**12

    monkeypatch.setattr("evaluation.runs.resources.available_memory", available)
    with pytest.raises(UserError, match=r"not enough GPU memory: .* needed for the replay.*; lower --replay-size"):
        check_resources(config, torch.device("cuda"), tmp_path / "run")
    free = needed
    check_resources(config, torch.device("cuda"), tmp_path / "run")


class CheckpointSizes(Watcher):
    """Bytes of a run's checkpoints at its evaluations, and `about`: those that were foreseen for one."""

    def __init__(self, run: Path) -> None:
        self._run, self.found = run, list[int]()

    def start(self, info: Mapping[str, Any]) -> None:
        self.about = info["checkpoint_bytes"]

    def evaluated(self, event: Any) -> None:
        folders = (self._run / "checkpoints").glob("0*")
        self.found.extend(sum(file.stat().st_size for file in one.rglob("*")) for one in folders)


def asked_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that runs will have asked for from now on."""
    asked: list[int] = []
    monkeypatch.setattr("evaluation.runs.resources.check_disk", lambda path, needed, *more: asked.append(needed))
    return asked


def test_preflight_asks_for_what_the_run_will_need(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_of_the_disk(monkeypatch)
    look = CheckpointSizes(tmp_path / "run")
    train(
        catch_config(tmp_path / "run", replay_size=1_000_000, evaluation={"interval": 900}), watchers=[look]
    )  # a replay of which the run fills 2,000
    assert max(look.found) < look.about < 3 * max(look.found) + 500_000
    left = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert left + 2 * max(look.found) < asked[0] < 5_000_000
    config = TrainConfig.preset("control", game="CartPole", total_steps=2_000)
    check_resources(config, torch.device("cpu"), tmp_path / "none")
    assert asked[-1] < 3_000_000  # 205 MB before
    check_resources(TrainConfig.preset("dqn"), torch.device("cpu"), tmp_path / "none")
    assert 3 * 7.0e9 < asked[-1] < 3 * 7.4e9  # a replay that is filled
