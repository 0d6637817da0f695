"""A preparation that is ended at any moment goes on, does nothing twice, and leaves the files of one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.supervised.text.test_prepare import files
from tests.supervised.text.written import small

START = """
import multiprocessing, os, pathlib, resource, sys
from evaluation.cli.errors import UserError
from supervised.text import prepare as module
from supervised.text.corpora import open_corpus
from supervised.text.progress import Silent

text, out = sys.argv[1:3]

def prepare(folder=out, **options):
    return module.prepare(open_corpus(text), folder, **{"vocab_size": 400, "shard_rows": 40, **options})
"""

# Ends at the n-th file, written but without its final name yet, for every n, in a process of its own.
AT_EVERY_FILE = """
replace = pathlib.Path.replace
if __name__ == "__main__":
    for n in range(1000):
        folder = f"{out}-{n}"
        child = os.fork()
        if not child:
            left = n

            def counted(path, target):
                global left
                if left == 0:
                    os._exit(9)
                left -= 1
                return replace(path, target)

            pathlib.Path.replace = counted
            prepare(folder, shard_rows=150)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        before = {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).glob("shards/*.npz")}
        again = []

        def seen(path, target):
            again.append(target)
            return replace(path, target)

        pathlib.Path.replace = seen
        prepare(folder, shard_rows=150)
        pathlib.Path.replace = replace
        assert not set(again) & set(before), "done twice"
        print(os.waitstatus_to_exitcode(status), len(before))
        if not status:
            break
"""

# The process that leads ends as kill -9 ends it, with two that encode.
KILLED = """
class Killing(Silent):
    def start(self, what, total):
        self.what = what

    def advance(self, done):
        if self.what == "encoding train" and done >= 160:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            os._exit(9)

if __name__ == "__main__":
    prepare(processes=2, progress=Killing())
"""

FULL = """
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    try:
        prepare(processes=int(sys.argv[4]), shard_rows=2500)
    except UserError as error:
        print(error)
"""

WORKER_ENDS = """
write = module.write_shard
def ending(*arguments):
    if arguments[2] and arguments[3] == 120:
        os._exit(1)
    return write(*arguments)
module.write_shard = ending
if __name__ == "__main__":
    try:
        prepare(processes=2)
    except UserError as error:
        print(error)
"""


def python(tmp_path: Path, program: str, *arguments: object, code: int = 0) -> str:
    """Run a program (a file, which processes that it spawns import again); returns what it printed, when none of its
    processes has that output any more."""
    script = tmp_path / "program.py"
    script.write_text(START + program)
    command = [sys.executable, str(script), str(tmp_path / "text"), str(tmp_path / "out"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


def uninterrupted(tmp_path: Path, train: int = 400) -> dict[str, bytes]:
    small(tmp_path / "text", train)
    python(tmp_path, 'if __name__ == "__main__":\n    prepare(out + "-whole", shard_rows=2500)')
    return files(tmp_path / "out-whole")


def test_ended_at_every_file_that_is_written(tmp_path: Path) -> None:
    whole = uninterrupted(tmp_path)
    lines = [line.split() for line in python(tmp_path, AT_EVERY_FILE).splitlines()]
    # begun, vocabulary, 3 + 1 + 1 shards, 4 files of train, 6 each of valid and test, info
    assert [code for code, _ in lines] == ["9"] * 24 + ["0"]
    assert sorted({int(shards) for _, shards in lines}) == [0, 1, 2, 3, 4, 5]
    for number in range(len(lines)):
        assert files(tmp_path / f"out-{number}") == whole, number


def test_killed_with_two_processes(tmp_path: Path) -> None:
    whole = uninterrupted(tmp_path)
    workers = [int(pid) for pid in python(tmp_path, KILLED, code=9).split()]
    assert len(workers) == 2
    shards = list((tmp_path / "out" / "shards").glob("*.npz"))
    assert len(shards) >= 4
    assert not (tmp_path / "out" / "info.json").exists()
    python(tmp_path, 'if __name__ == "__main__":\n    prepare(processes=2)')
    assert files(tmp_path / "out") == whole


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    whole = uninterrupted(tmp_path, 20_000)
    vocabulary = len(whole["vocabulary.model"])
    assert vocabulary < len(whole["train.target.tokens"])

    def full(limit: int, processes: int) -> set[str]:
        """What is kept where no file can be longer than `limit`."""
        (said,) = python(tmp_path, FULL, limit, processes).splitlines()
        assert said.startswith("File too large writing ")
        assert said.endswith("/out: free some space and run it again; what is done stays done")
        return set(files(tmp_path / "out"))

    assert full(vocabulary - 1, 1) == {"preparing.json"}
    shards = {f"shards/train-{start}-{start + 2500}.npz" for start in range(0, 20_000, 2500)}
    shards |= {"shards/valid-0-20.npz", "shards/test-0-30.npz"}
    kept = {"preparing.json", "vocabulary.model", *shards}
    assert full(vocabulary, 1) == kept  # it ends where the shards are put together
    (tmp_path / "out" / "shards" / "train-5000-7500.npz").unlink()
    assert full(10_000, 2) == kept - {"shards/train-5000-7500.npz"}  # in a process that encodes
    python(tmp_path, 'if __name__ == "__main__":\n    prepare(shard_rows=2500)')
    assert files(tmp_path / "out") == whole


def test_a_process_that_ends_while_it_encodes(tmp_path: Path) -> None:
    whole = uninterrupted(tmp_path)
    (said,) = python(tmp_path, WORKER_ENDS).splitlines()
    assert said.startswith("a process that encoded was ended (for want of memory? fewer --processes take less)")
    python(tmp_path, 'if __name__ == "__main__":\n    prepare(processes=2)')
    assert files(tmp_path / "out") == whole
