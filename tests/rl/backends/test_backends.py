"""What backends refuse and what they take over; no library is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import rl.backends
from evaluation.cli.errors import UserError
from rl import TrainConfig, cli
from rl.backends import BACKENDS, Backend


@pytest.mark.parametrize(
    ("backend", "options", "line"),
    [
        ("sb3", {"precision": "bf16"}, "--precision bf16: the backend sb3 has only auto or fp32"),
        ("tianshou", {"compile": True}, "--compile true: the backend tianshou has only false"),
        ("tianshou", {"channels_last": True}, "--channels-last true: the backend tianshou has only null or false"),
        ("sb3", {"loss": "mse"}, "--loss mse: the backend sb3 has only huber"),
        (
            "sb3",
            {"env": {"source": "ale", "protocol": "sticky"}},
            "--env.num-envs 16: the backend sb3 needs environments that can be reset one by one: 1",
        ),
    ],
)
def test_what_a_library_cannot_do_is_one_line(backend: str, options: dict[str, object], line: str) -> None:
    if "env" in options:
        pytest.importorskip("ale_py.vector_env")
    with pytest.raises(UserError) as caught:
        TrainConfig.preset("quick", backend=backend, **options).validate()
    assert str(caught.value) == line


def test_a_new_option_is_refused_until_it_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl.backends, "_HONOURED", rl.backends._HONOURED - {"n_step"})
    TrainConfig.preset("dqn", backend="tianshou").validate()  # at its default nothing is asked of the library
    with pytest.raises(UserError, match="--n-step 3: the backend tianshou has only 1"):
        TrainConfig.preset("quick", backend="tianshou").validate()
    TrainConfig.preset("quick").validate()


def test_double_dqn_is_off_where_there_is_none_and_that_is_said() -> None:
    config = TrainConfig.preset("quick", backend="sb3")
    config.validate()
    assert not config.double
    assert config.notes == ("--double true: the backend sb3 has only false, which it goes on with",)
    other = TrainConfig.preset("quick", backend="tianshou", loss="mse")
    other.validate()
    assert other.double
    assert not other.notes


def test_a_library_that_is_missing_is_one_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, library in (("sb3", "stable_baselines3"), ("tianshou", "tianshou")):
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == library]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.delitem(sys.modules, f"rl.backends.{name}", raising=False)
        run = tmp_path / name
        assert cli.main(["train", "--game", "CartPole", "--backend", name, "--run-dir", str(run)]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert said == [f"error: --backend {name}: {library} is not installed: pip install 'asgc[{name}]'"]
        assert not run.exists()


def test_an_unknown_backend_and_another_algorithm_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--backend", "sb3", "--algorithm", "pqn"]) == 2
    assert capsys.readouterr().err == "error: --algorithm pqn: the backend sb3 has only dqn\n"
    assert cli.main(["train", "--backend", "rllib"]) == 2
    assert "native, sb3" in capsys.readouterr().err
    backend: Backend = BACKENDS["sb3"]
    assert backend.name == "sb3"


def test_help_names_the_backends_and_imports_neither_torch_nor_a_library() -> None:
    import subprocess

    program = (
        "import sys\nfrom rl import cli\ncli.main(['train', '--help'])\n"
        "assert not {'torch', 'envpool', 'stable_baselines3', 'tianshou'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--backend" in done.stdout
