"""The speed bench of images: what it times trains, on random images and on a folder's; its command and errors."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import image_speed as bench
from benchmarks import supervised_bench_cli, turns
from benchmarks.made_up import MadeUpImages
from benchmarks.turns import Turn
from evaluation.cli.errors import UserError
from evaluation.runs.seeding import seed_all
from supervised.cli import main
from supervised.distributed import ALONE
from supervised.preflight import choose
from supervised.tasks.imagenet import ImageNet

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)
CPU = torch.device("cpu")


def setting_of(data: str | None = None, optimizer: str = "sgd") -> bench.Setting:
    return bench.Setting(data, "resnet18", optimizer, 3, 32, 0, "fp32", "cpu", 1)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_ours_and_the_plain_loop_learn_the_same_from_the_same_images() -> None:
    full, _ = choose(bench.config_of(dataclasses.replace(setting_of(), batch_size=8, resolution=64)), None)
    task = MadeUpImages(full, ALONE, print)

    @contextmanager
    def opened(updates: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        images, labels = task.fetch(task.order.update(0).indices, 0)
        yield iter([(task.data.normalization.apply(images), labels)])

    mine = bench.ours(full, task, CPU)
    plain = bench._plain(full, task, CPU, opened, "torchvision", torch.contiguous_format)
    plain.model.load_state_dict(mine.model.state_dict())
    start = weights(mine.model)
    for contestant in (mine, plain):
        contestant.train(1)
    a, b = (weights(one.model) for one in (mine, plain))
    assert torch.linalg.vector_norm(a - b) < 1e-2 * torch.linalg.vector_norm(a - start)


def test_a_folder_is_read_by_both(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in [f"{split}/{label}/{k}.png" for split in ("train", "val") for label in "ab" for k in range(3)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / name)
    full, _ = choose(bench.config_of(setting_of(str(tmp_path))), None)
    task = ImageNet(full, ALONE, print)
    with bench._folder(full, task, CPU)(3) as batches:
        found = list(batches)
    assert [tuple(images.shape) for images, _ in found] == [(3, 3, 32, 32)] * 3
    assert sorted(torch.cat([labels for _, labels in found[:2]]).tolist()) == [0] * 3 + [1] * 3
    assert abs(float(torch.cat([images for images, _ in found]).mean())) < 1  # normalized
    contestants = [*bench.plain(full, task, CPU), bench.ours(full, task, CPU)]
    assert [contestant.plain for contestant in contestants] == [True, True, False]
    for contestant in contestants:
        seed_all(1)
        before = [parameter.detach().clone() for parameter in contestant.model.parameters()]
        contestant.train(1)
        assert not any(torch.equal(a, b) for a, b in zip(before, contestant.model.parameters(), strict=True))


def test_the_ratio_is_to_the_faster_plain_loop_by_each_clock() -> None:
    one, other, mine = [Turn(4, 1)] * 3, [Turn(2, 3)] * 3, [Turn(1, 2), Turn(4, 1), Turn(1, 1)]
    assert turns.ratios(mine, [one, other]) == "1.00x by processor time; ratio: 2.00x"
    assert turns.rate(mine, 8, "images").strip() == "8.0 images/s  (min 2.0, max 8.0), 8.0 in a second of a core"


def test_other_work_on_the_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    assert "load 3.0" in turns.load(1)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.6, 0.0, 0.0))
    assert turns.load(1) == ""


def test_the_command_prints_the_ratio_last(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "bench --model resnet18 --resolution 32 --batch-size 2 --updates 1 --rounds 2 --threads 1 --device cpu"
    assert main(flags.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "torchvision",
        "torchvision, channels_last",
        "asgc-sup, asgc",
    ]
    assert float(lines[-1].split()[-1].rstrip("x")) > 0


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--task wmt41", "--task wmt41: unknown.*did you mean 'wmt14'"),
        ("--optimizer asgd", "--optimizer asgd: unknown"),
        ("--precision fp16", "--precision fp16: unknown; did you mean 'bf16'"),
        ("--vocabulary 700", "--vocabulary: only --task wmt14 has this option"),
        ("--task wmt14 --workers 2", "--workers: only --task imagenet has this option"),
        ("--model small-cnn", "torchvision has no such model"),
        ("--model resnet5", "--model resnet5: .*did you mean"),
        ("--data nowhere", "--data nowhere: there is no such folder"),
        ("--task wmt14 --model bsae", "--model bsae: no size of the Transformer; did you mean 'base'|fairseq"),
        ("--rounds 0", "--rounds 0: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(flags: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        supervised_bench_cli.main(["--device", "cpu", *flags.split()])


@pytest.mark.parametrize(("task", "library"), [("imagenet", "torchvision"), ("wmt14", "fairseq")])
def test_what_is_not_installed_is_named(task: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{library}.*pip install 'asgc"):
        supervised_bench_cli.main(["--task", task, "--device", "cpu"])
