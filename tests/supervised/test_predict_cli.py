"""`asgc-sup predict`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.cli.errors import UserError
from supervised import TrainConfig, train
from supervised.model import build, load
from supervised.predict_cli import class_names, predict_command
from tests.supervised.vision.images import make_folder
from tests.torchvision_ops import import_torchvision, needs_torchvision

pytest.importorskip("sklearn")
import_torchvision()
pytestmark = needs_torchvision
OPTIONS = {"precision": "fp32", "threads": 1, "tensorboard": False, "device": "cpu", "gradients.enabled": False}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "digits"
    train(TrainConfig.preset(**OPTIONS, **{"data.name": "digits", "epochs": 8, "run_dir": str(run)}))
    return run


def test_digits_from_files(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sklearn.datasets import load_digits

    data, right = load_digits(), 0
    files = []
    for k in range(20):
        files.append(tmp_path / f"{k}.png")
        Image.fromarray(np.round(data.images[k] * 255 / 16).astype(np.uint8)).save(files[-1])
    assert predict_command([str(digits), *map(str, files), "--json", "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [str(file) for file in files]
    for line, label in zip(lines, data.target, strict=False):
        probabilities = [one["probability"] for one in line["classes"]]
        assert len(probabilities) == 5
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0.5 < sum(probabilities) <= 1.0001
        right += line["classes"][0]["name"] == str(label)
    assert right >= 17
    # What the model itself says of the same pixels.
    loaded = load(digits, "cpu")
    with torch.inference_mode():
        x = (torch.from_numpy(np.round(data.images[:1] * 255 / 16)).float() / 255 - 0.3052) / 0.3760
        expected = build(loaded)(x[None]).softmax(1).max()
    assert lines[0]["classes"][0]["probability"] == pytest.approx(float(expected), abs=1e-4)


def test_a_file_that_is_no_image(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (30, 20), (9, 200, 9)).save(good)
    bad.write_text("no image")
    assert predict_command([str(digits), str(bad), str(tmp_path / "none.png"), str(good)]) == 2
    said = capsys.readouterr()
    assert said.out.startswith(f"{good}: ")
    assert said.out.count("%") == 5
    assert [line.split(": no image")[0] for line in said.err.splitlines()] == [
        f"error: {bad}",
        f"error: {tmp_path / 'none.png'}",
    ]
    with pytest.raises(UserError, match="say which run and which images"):
        predict_command([str(digits)])


def test_a_folder_of_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, run = make_folder(tmp_path / "images"), tmp_path / "run"
    options = {"data.name": str(root), "data.workers": 0, "data.resolution": 32, "model.name": "small-cnn"}
    options |= {"run_dir": str(run), "batch_size": 6, "total_steps": 40, "optimizer.lr": 1e-2}
    train(TrainConfig.preset("digits", **OPTIONS, **options))
    files = [str(root / "val" / name / "0.jpg") for name in ("fish", "cat")]
    assert predict_command([str(run), *files]) == 0
    assert [line.split(": ")[1].split()[0] for line in capsys.readouterr().out.splitlines()] == ["fish", "cat"]


def test_imagenet_classes_have_names() -> None:
    numbers = [f"n{k:08d}" for k in range(1000)]
    assert class_names(numbers)[0] == "tench"
    assert class_names(numbers[:10]) == numbers[:10]
