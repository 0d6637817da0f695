"""Checkpoints survive kills, damage and full disks."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.runs.checkpoint import MANIFEST, CheckpointError, CheckpointStore

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def child(*arguments: str | Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*prefix, sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300, check=False)


def write(step: int):
    def write_files(folder: Path) -> None:
        (folder / "state").write_text(f"state {step}")
        (folder / "replay").mkdir()
        np.save(folder / "replay" / "frames.npy", np.full(1000, step))

    return write_files


def filled(tmp_path: Path, *steps: int) -> tuple[CheckpointStore, list[str]]:
    messages: list[str] = []
    store = CheckpointStore(tmp_path / "checkpoints", message=messages.append)
    for step in steps:
        store.save(step, write(step), {"length": step * 10})
    return store, messages


def steps_kept(store: CheckpointStore) -> list[int]:
    return [int(path.name.split("-")[-1]) for path in sorted(store.folder.iterdir())]


def test_the_newest_is_loaded_and_the_last_two_are_kept(tmp_path):
    store, messages = filled(tmp_path, 1, 2, 3)
    newest = CheckpointStore(store.folder).latest()
    assert (newest.step, newest.meta) == (3, {"length": 30})
    assert (newest.path / "state").read_text() == "state 3"
    assert steps_kept(store) == [2, 3]
    assert messages == []


def test_without_any_checkpoint_there_is_none(tmp_path):
    store, _ = filled(tmp_path)
    assert store.latest() is None
    store.clean()
    store.remove_all()


def test_one_step_can_be_saved_twice(tmp_path):
    store, _ = filled(tmp_path, 5)
    store.save(5, lambda folder: (folder / "state").write_text("again") and None)
    assert (store.latest().path / "state").read_text() == "again"


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["state", "replay/frames.npy", MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_a_damaged_newest_falls_back_to_the_one_before_with_a_message(tmp_path, name, damage):
    store, messages = filled(tmp_path, 1, 2)
    victim = store.latest().path / name
    if damage == "flip":
        flip_a_bit(victim)
    elif damage == "truncate":
        os.truncate(victim, victim.stat().st_size - 1)
    elif damage == "empty":
        os.truncate(victim, 0)
    else:
        victim.unlink()
    found = store.latest()
    assert found.step == 1
    assert len(messages) == 1
    assert "000001-step-2 is damaged" in messages[0]


def test_what_is_wrong_for_several_is_said_once(tmp_path):
    """A damaged line of the metrics is in the way of each checkpoint after it."""
    store, messages = filled(tmp_path)
    store.keep = 4
    for step in (1, 2, 3, 4):
        store.save(step, write(step))

    def check(checkpoint, last):
        if checkpoint.step > last:
            raise UserError("metrics.jsonl, line 2: not a row of metrics")

    assert store.latest(lambda checkpoint: check(checkpoint, 1)).step == 1
    names = "000003-step-4, 000002-step-3, 000001-step-2"
    assert messages == [f"checkpoint {names} cannot serve: metrics.jsonl, line 2: not a row of metrics"]
    messages.clear()
    with pytest.raises(UserError, match=r"^metrics.jsonl, line 2"):
        store.latest(lambda checkpoint: check(checkpoint, 0))
    assert messages == []  # the error says it


def test_a_changed_manifest_is_seen(tmp_path):
    store, messages = filled(tmp_path, 1, 2)
    manifest = store.latest().path / MANIFEST
    manifest.write_text(manifest.read_text().replace('"length": 20', '"length": 21'))
    assert store.latest().step == 1
    assert messages


def test_a_damaged_one_never_takes_the_place_of_a_whole_one(tmp_path):
    store, _ = filled(tmp_path, 1, 2)
    flip_a_bit(store.latest().path / "state")
    assert store.latest().step == 1
    store.save(3, write(3))
    assert steps_kept(store) == [1, 3]


def test_when_all_are_damaged_the_run_is_not_thrown_away(tmp_path):
    store, messages = filled(tmp_path, 1, 2)
    for state in store.folder.glob("*/state"):
        flip_a_bit(state)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        store.latest()
    assert len(messages) == 2


def test_a_reader_removes_nothing(tmp_path):
    store, _ = filled(tmp_path, 1)
    half_written = store.folder / ".tmp-000001-step-2"
    half_written.mkdir()
    assert CheckpointStore(store.folder).latest().step == 1
    assert half_written.exists()
    store.clean()
    assert not half_written.exists()


def test_remove_all_leaves_nothing(tmp_path):
    store, _ = filled(tmp_path, 1, 2)
    (store.folder / ".tmp-000007-step-9").mkdir()
    store.remove_all()
    assert not store.folder.exists()


def test_an_exception_of_the_writer_passes_and_leaves_nothing_half_written(tmp_path):
    store, _ = filled(tmp_path, 1)

    def broken(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.save(2, broken)
    assert steps_kept(store) == [1]

    def interrupted(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(2, interrupted)
    assert steps_kept(store) == [1]


def test_every_byte_reaches_the_disk_before_the_rename(tmp_path, monkeypatch):
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path).as_posix())
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    filled(tmp_path, 1)
    temporary = "checkpoints/.tmp-000000-step-1"
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    names = ("state", "replay/frames.npy", MANIFEST, "replay")
    assert {f"{temporary}/{name}" for name in names} | {temporary} <= set(before)
    assert after == ["checkpoints"]


def test_killed_before_any_file_operation_of_a_save_the_newest_whole_one_is_there(tmp_path):
    done = child(HERE / "kill_checkpoint.py", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 20


SAVE_IN_A_LOOP = """
import sys, numpy as np
from pathlib import Path
from evaluation.runs.checkpoint import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]))
store.clean()
newest = store.latest()
step = newest.step if newest else 0
def write(folder):
    for name in "abc":
        np.save(folder / f"{name}.npy", np.full(200_000, step))
print("ready", flush=True)
while True:
    step += 1
    store.save(step, write)
"""


def test_killed_at_random_times_while_it_saves_in_a_loop(tmp_path):
    folder = tmp_path / "store"
    generator = random.Random(0)
    last = 0
    for _ in range(6):
        command = [sys.executable, "-c", SAVE_IN_A_LOOP, str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.1 + generator.random() * 0.2)
            process.send_signal(signal.SIGKILL)
        store = CheckpointStore(folder, message=pytest.fail)
        newest = store.latest()
        if newest is None:
            continue
        assert newest.step >= last
        last = newest.step
        for name in "abc":
            np.testing.assert_array_equal(np.load(newest.path / f"{name}.npy"), np.full(200_000, newest.step))
    assert last > 0


WRITERS = {
    "numpy": lambda folder: np.save(folder / "frames.npy", np.zeros(2**20)),
    "torch": lambda folder: torch.save(torch.zeros(2**20), folder / "state.pt"),
    "python": lambda folder: (folder / "x").write_bytes(bytes(2**23)) and None,
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_file_that_cannot_grow_is_one_clear_line_whoever_writes_it(tmp_path, library):
    store, _ = filled(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(CheckpointError) as caught:
            store.save(2, WRITERS[library])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(caught.value)
    assert message.startswith(f"cannot write the checkpoint of step 2 into {store.folder} (")
    assert message.endswith("000000-step-1 is intact; free some space, then go on with --resume")
    assert "\n" not in message
    assert steps_kept(store) == [1]
    assert store.latest().step == 1
    store.save(2, write(2))
    assert store.latest().step == 2


FILL_A_SMALL_DISK = """
import sys, subprocess
from pathlib import Path
home = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", home], capture_output=True).returncode:
    sys.exit(77)
import numpy as np
from evaluation.runs.checkpoint import CheckpointError, CheckpointStore
from evaluation.cli.errors import main_guard
store = CheckpointStore(home / "checkpoints")
save = lambda size: lambda folder: np.save(folder / "frames.npy", np.zeros(size, np.uint8))
store.save(1, save(1_500_000))
@main_guard
def main():
    store.save(2, save(3_000_000))
code = main()
assert code == 2, code
assert [path.name for path in store.folder.iterdir()] == ["000000-step-1"]
assert store.latest().step == 1
store.save(2, save(1_500_000))
try:
    store.save(3, save(1_500_000))  # three do not fit
except CheckpointError:
    pass
else:
    sys.exit("the third fits?")
assert store.latest().step == 2
"""


def test_a_full_disk_stops_the_run_with_one_line_and_keeps_what_is_there(tmp_path):
    done = child("-c", FILL_A_SMALL_DISK, tmp_path, prefix=("unshare", "--mount", "--map-root-user"))
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("this user may not mount a tmpfs")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: cannot write the checkpoint of step 2")
