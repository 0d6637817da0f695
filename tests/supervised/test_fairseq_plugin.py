"""fairseq trains with the optimizers of the registry: its own command, its own checkpoints, its own configuration."""

from __future__ import annotations

import argparse
import io
import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed: pip install 'asgc[fairseq]'")

from fairseq import optim, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

import supervised
from asgc import optimizers
from asgc.options import TORCH_CLASSES
from supervised.fairseq_plugin.optimizers import fairseq_name

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of Hydra, about fairseq

PLUGIN = str(Path(supervised.__file__).parent / "fairseq_plugin")
# Several trainings in one process, each as its command line would run: the import is most of what one costs.
COMMANDS = """
import shlex, sys
flags = sys.argv[1:]
from fairseq_cli.train import cli_main
for line in flags:
    print("run", line, flush=True)
    sys.argv = ["fairseq-train", *shlex.split(line)]
    cli_main()
"""
MODEL = " ".join(
    f"--{side}-{name} {value}"
    for side in ("encoder", "decoder")
    for name, value in (("layers", 1), ("embed-dim", 32), ("ffn-embed-dim", 64), ("attention-heads", 2))
)
TRAIN = (
    f"--user-dir {PLUGIN} --arch transformer {MODEL} --dropout 0.1 --criterion label_smoothed_cross_entropy "
    "--label-smoothing 0.1 --lr-scheduler inverse_sqrt --warmup-updates 10 --max-tokens 200 --max-update 40 "
    "--log-format json --log-interval 5 --cpu --num-workers 0 --disable-validation"
)


def _words(folder: Path) -> None:
    """400 pairs: a sentence of made-up words, and the same words in capitals from last to first."""
    rng = random.Random(0)
    words = [f"w{i}" for i in range(30)]
    pairs = [rng.choices(words, k=rng.randint(3, 8)) for _ in range(400)]
    (folder / "train.de").write_text("".join(" ".join(pair) + "\n" for pair in pairs))
    (folder / "train.en").write_text("".join(" ".join(reversed(pair)).upper() + "\n" for pair in pairs))


@contextmanager
def _quiet() -> Iterator[None]:
    """fairseq's commands set up logging for their process, which is not theirs here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    _words(folder)
    argv = ["fairseq-preprocess", "-s", "de", "-t", "en", "--trainpref", "train", "--destdir", "bin", "--workers", "1"]
    with _quiet(), mock.patch.object(sys, "argv", argv), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from fairseq_cli import preprocess

        preprocess.cli_main()
    return folder / "bin"


def _train(folder: Path, data: Path, *lines: str) -> list[list[dict[str, float]]]:
    """Run fairseq-train with these flags, one after the other, in a folder from which nothing of ours can be imported;
    returns what each logged."""
    commands = [f"{data} {TRAIN} {line}" for line in lines]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMANDS, *commands], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = done.stdout.split("run ")[1:]
    assert len(runs) == len(lines)
    return [
        [
            {key: float(value) for key, value in json.loads(line.rpartition(" | ")[2]).items()}
            for line in run.splitlines()
            if "| train_inner |" in line
        ]
        for run in runs
    ]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def test_trains_and_resumes_as_if_it_had_not_stopped(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # a clone is found by the path of --user-dir alone
    lr = "--lr 0.01"
    asgc = (
        f"--optimizer asgc --asgc-clip-factor 1.5 --asgc-betas 0.9,0.98 {lr} --clip-norm 0 --save-interval-updates 10"
    )
    whole, resumed, sgd, agc, adam = _train(
        tmp_path,
        data,
        f"{asgc} --save-dir whole",
        f"{asgc} --save-dir resumed --restore-file whole/checkpoint_1_10.pt",
        "--optimizer asgc --asgc-rule sgd --asgc-momentum 0.9 --lr 0.3 --no-save",
        f"--optimizer agc --asgc-clip-ratio 0.1 --no-asgc-exclude-head {lr} --no-save",
        f"--optimizer torch-adam {lr} --clip-norm 1 --no-save",
    )
    for run in (whole, sgd, agc, adam):
        assert run[-1]["num_updates"] == 40
        assert run[-1]["loss"] < 0.85 * run[0]["loss"]
        # inverse_sqrt: up to the rate at update 10, down with the root from there
        peak = {entry["num_updates"]: entry["lr"] for entry in run}
        assert peak[5] == pytest.approx(peak[10] / 2)
        assert peak[40] == pytest.approx(peak[10] / 2, rel=1e-5)
    assert [entry["loss"] for entry in resumed] == [entry["loss"] for entry in whole[-len(resumed) :]]
    first, second = (
        torch.load(tmp_path / name / "checkpoint_3_40.pt", weights_only=False) for name in ("whole", "resumed")
    )
    assert _equal(dict(first["model"]), dict(second["model"]))
    assert _equal(first["last_optimizer_state"], second["last_optimizer_state"])
    (group,) = first["last_optimizer_state"]["param_groups"]
    assert (group["clip_factor"], group["betas"], group["seed"]) == (1.5, (0.9, 0.98), 1)


def _parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(2))]


def _build(name: str, *flags: str) -> Any:
    """fairseq's optimizer from a command line."""
    line = ["DATA", "--arch", "transformer", "--optimizer", name, "--lr", "0.01", "--max-tokens", "10", *flags]
    with _quiet():
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))
    return optim.build_optimizer(cfg.optimizer, _parameters())


def _build_from_yaml(name: str) -> Any:
    """fairseq's optimizer from a configuration such as fairseq-hydra-train reads."""
    cfg = OmegaConf.create(
        {
            "optimizer": {"_name": name},
            "optimization": {"lr": [0.01], "clip_norm": 0.0},
            "common": {"seed": 1, "amp": False},
        }
    )
    return optim.build_optimizer(cfg.optimizer, _parameters())


def _steps(optimizer: Any, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in optimizer.params:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_is_there_with_its_state(name: str) -> None:
    built = _build_from_yaml(fairseq_name(name))
    expected = optimizers.build(name, [torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    assert type(built.optimizer) is type(expected)
    if name in optim.OPTIMIZER_REGISTRY and fairseq_name(name) != name:  # fairseq's own is still itself
        assert "fairseq_plugin" not in optim.OPTIMIZER_REGISTRY[name].__module__
    assert not built.supports_memory_efficient_fp16
    assert built.supports_flat_params == (name in TORCH_CLASSES)
    # Through a file, as fairseq keeps it, into a new optimizer.
    _steps(built, 3, seed=1)
    file = io.BytesIO()
    torch.save(built.state_dict(), file)
    file.seek(0)
    other = _build_from_yaml(fairseq_name(name))
    other.load_state_dict(torch.load(file))
    with torch.no_grad():
        for old, new in zip(built.params, other.params, strict=True):
            new.copy_(old)
    _steps(built, 3, seed=2)
    _steps(other, 3, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(built.params, other.params, strict=True))


def test_options_reach_the_optimizer() -> None:
    flags = "--asgc-rule sgd --asgc-momentum 0.9 --asgc-mode value --asgc-clip-factor inf --asgc-threshold 3"
    (group,) = _build("asgc", *flags.split(), "--asgc-nesterov", "--seed", "7").optimizer.param_groups
    expected = {"rule": "sgd", "momentum": 0.9, "mode": "value", "threshold": 3.0, "nesterov": True, "lr": 0.01}
    assert {key: group[key] for key in expected} == expected
    assert group["seed"] == 7  # another run, other noise
    (group,) = _build("asgc", "--seed", "7", "--asgc-seed", "3").optimizer.param_groups
    assert group["seed"] == 3
    (group,) = _build("adam+clip", "--asgc-betas", "(0.9, 0.98)", "--asgc-max-norm", "1").optimizer.param_groups
    assert group["betas"] == (0.9, 0.98)


def test_every_option_of_the_table_is_a_flag_with_its_help() -> None:
    parser = options.get_training_parser()
    taken = {flag for action in parser._actions for flag in action.option_strings}
    for name in optimizers.names():
        own = argparse.ArgumentParser(add_help=False)
        optim.OPTIMIZER_REGISTRY[fairseq_name(name)].add_args(own)
        flags = {flag: action for action in own._actions for flag in action.option_strings}
        assert not taken & set(flags)
        expected = optimizers.options(name)
        for option in expected.values():
            text = flags[f"--asgc-{option.name.replace('_', '-')}"].help
            assert text is not None
            assert option.help.split(";")[0].partition("None")[0].replace("%", "%%") in text
        own.format_help()


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("asgc", "--clip-norm 1", "--clip-norm 1 clips the gradients before --optimizer asgc.*give --clip-norm 0"),
        ("asgc", "--asgc-clip-factor -1", "clip_factor must be above 0"),
        ("agc", "--asgc-momentum 0.9", "agc has no option 'momentum'"),
    ],
)
def test_what_cannot_be_is_said(name: str, flags: str, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        _build(name, *flags.split())


def test_clip_norm_beside_what_does_not_clip() -> None:
    _build("asgc-noise", "--clip-norm", "1")
    _build("torch-sgd", "--clip-norm", "1")


def test_amp_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    _build("asgc", "--amp")
    assert "loss scale twice" in caplog.text
