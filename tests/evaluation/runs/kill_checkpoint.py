"""Child of test_checkpoint: a checkpoint save killed before each of its file operations. Argument: a folder."""

import shutil
import sys
from pathlib import Path

from killing import survive_every_kill

from evaluation.runs.checkpoint import CheckpointStore

home = Path(sys.argv[1])
seen = set()


def contents(step: int) -> dict[str, str]:
    return {"state": f"state {step} " * 1000, "replay/frames": f"frames {step} " * 5000}


def write(step: int, folder: Path) -> None:
    for name, text in contents(step).items():
        (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            (folder / name).stat()
            file.write(text[len(text) // 2 :])


def prepare() -> None:
    shutil.rmtree(home, ignore_errors=True)
    store = CheckpointStore(home)
    for step in (1, 2):
        store.save(step, lambda folder, step=step: write(step, folder))


def check(operation: int) -> None:
    messages: list[str] = []
    store = CheckpointStore(home, message=messages.append)
    store.clean()
    newest = store.latest()
    assert not messages, f"operation {operation}: {messages}"
    assert newest is not None
    assert newest.step in (2, 3), (operation, newest)
    seen.add(newest.step)
    for name, text in contents(newest.step).items():
        assert (newest.path / name).read_text() == text, (operation, name)
    store.save(4, lambda folder: write(4, folder))
    assert [path.name.split("-")[-1] for path in sorted(home.iterdir())] == [str(newest.step), "4"], operation


kills = survive_every_kill(
    lambda: CheckpointStore(home).save(3, lambda folder: write(3, folder)) and None, check, prepare
)
assert seen == {2, 3}
print(f"{kills} kills")
