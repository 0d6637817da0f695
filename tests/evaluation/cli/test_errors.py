"""Errors become one line and an exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.cli.errors import UserError, main_guard, reason

ROOT = Path(__file__).parents[3]


def guarded(error: BaseException | None, code: int | None = None) -> int:
    @main_guard
    def main() -> int | None:
        if error is not None:
            raise error
        return code

    return main()


def test_codes_of_a_program_that_ends_well():
    assert guarded(None) == 0
    assert guarded(None, 3) == 3


def test_a_user_error_is_one_line_and_2(capsys):
    assert guarded(UserError("no such game:\n  Pnog")) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no such game: Pnog\n"
    assert captured.out == ""


def test_ctrl_c_is_130(capsys):
    assert guarded(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_and_2(capsys, number):
    assert guarded(OSError(number, os.strerror(number), "runs/x/metrics.jsonl")) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {os.strerror(number)} writing runs/x/metrics.jsonl: free some space")
    assert line.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_is_one_line_and_2(capsys, number):
    assert guarded(OSError(number, os.strerror(number), "runs/x/metrics.jsonl")) == 2
    assert capsys.readouterr().err.startswith(f"error: {os.strerror(number)} writing runs/x/metrics.jsonl: mend that")


STREAMS = """
import os, sys
from evaluation.cli.errors import main_guard, tell
@main_guard
def main():
    print("line")
    tell("line")
    with open(sys.argv[1], "w") as file:
        os.write(1, b"what a library prints")
        file.write(f"{file.fileno()} {os.fstat(file.fileno()).st_size}")
sys.exit(main())
"""


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"])
def test_closed_streams_are_no_traceback_and_no_file_takes_their_place(tmp_path, closed):
    command = f'exec "{sys.executable}" -c "$PROGRAM" "{tmp_path / "file"}" {closed}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROGRAM": STREAMS}
    done = subprocess.run(command, shell=True, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    descriptor, size = map(int, (tmp_path / "file").read_text().split())
    assert descriptor > 2
    assert size == 0


def test_a_terminal_that_is_gone_is_no_traceback(monkeypatch):
    class Gone:
        def write(self, text=""):
            raise OSError(errno.EIO, "Input/output error")

        flush = fileno = write

    monkeypatch.setattr(sys, "stderr", Gone())
    assert guarded(UserError("something")) == 2
    assert guarded(KeyboardInterrupt()) == 130


def test_other_exceptions_keep_their_traceback():
    for error in (ValueError("defect"), FileNotFoundError(errno.ENOENT, "gone")):
        with pytest.raises(type(error)):
            guarded(error)
    with pytest.raises(SystemExit):
        guarded(SystemExit(4))


def test_a_closed_pipe_is_met_in_silence():
    program = (
        "import sys\nfrom evaluation.cli.errors import main_guard\n"
        "@main_guard\ndef main():\n    print('line\\n' * 100_000)\n"
        "sys.exit(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_reason_is_short():
    assert reason(OSError(errno.EACCES, "Permission denied", "/root/x")) == "Permission denied"
    assert reason(ValueError("one\ntwo")) == "one"
    assert reason(ValueError()) == "ValueError"


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EACCES])
def test_a_path_that_the_system_refuses_is_one_line(capsys, number):
    assert guarded(OSError(number, os.strerror(number), "x/y")) == 2
    assert capsys.readouterr().err == f"error: {os.strerror(number)}: x/y\n"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", rb"a - . \xe4 " + b"\xff" + rb" \ud800"), ("utf-8", "a · … ä ".encode() + b"\xff" + rb" \ud800")],
)
def test_every_text_can_be_printed_whatever_the_terminal_takes(encoding, shown):
    program = (
        "import sys\nfrom evaluation.cli.errors import main_guard\n"
        "@main_guard\ndef main():\n    print('a \\xb7 \\u2026 \\xe4 \\udcff \\ud800')\n"
        "sys.exit(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout.rstrip() == shown
