"""ASGC under Lightning: small real runs, resumed ones, and the message where the Trainer would clip as well."""

import copy
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asgc import ASGC, wrap
from tests.asgc.implementations.small_run import OPTIMIZERS, assert_falls, assert_same_bits, batch, build, model
from tests.torchvision_ops import import_torchvision

import_torchvision()
import lightning as L  # noqa: E402
import pytorch_lightning  # noqa: E402

ROOT = Path(__file__).parents[3]
BATCHES = [batch(seed) for seed in range(24)]


def module_class(base: Any) -> Any:
    class Module(base):  # type: ignore[misc]
        def __init__(self, make: Any) -> None:
            super().__init__()
            self.net, self.make, self.losses = model(), make, []

        def training_step(self, item: list[Tensor], _: int) -> Tensor:
            x, y = item
            loss = nn.functional.mse_loss(self.net(x), y)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            opt = self.make(self.net.parameters())
            scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.999)
            return {"optimizer": opt, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(BATCHES, batch_size=None)

    return Module


Module = module_class(L.LightningModule)


def trainer(package: Any = L, **options: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return package.Trainer(accelerator="cpu", devices=1, **{**quiet, "max_epochs": 2, **options})


def fit(runner: Any, module: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data loaders without workers
        runner.fit(module, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_run_as_a_plain_loop(name: str) -> None:
    module = Module(lambda params: build(name, params))
    fit(trainer(accumulate_grad_batches=2), module)
    net = model()
    opt = build(name, net.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.999)
    for _ in range(2):
        for t, (x, y) in enumerate(BATCHES):
            (nn.functional.mse_loss(net(x), y) / 2).backward()
            if t % 2:
                opt.step()
                opt.zero_grad()
                scheduler.step()
    assert_same_bits(module.net.state_dict(), net.state_dict())
    assert_same_bits(module.optimizers().optimizer.state_dict(), opt.state_dict())


def test_bf16_autocast() -> None:
    module = Module(lambda params: ASGC(params, 0.02))
    fit(trainer(precision="bf16-mixed", max_epochs=4), module)
    assert_falls(module.losses)


@pytest.mark.parametrize("name", ["cpu", "wrap"])
def test_a_checkpoint_resumes_to_the_last_bit(name: str, tmp_path: Path) -> None:
    def make(params: Any) -> Any:
        return build(name, params)

    whole, first, second = Module(make), Module(make), Module(make)
    fit(trainer(max_epochs=2), whole)
    runner = trainer(max_epochs=1)
    fit(runner, first)
    runner.save_checkpoint(tmp_path / "half.ckpt")
    fit(trainer(max_epochs=2), second, ckpt_path=tmp_path / "half.ckpt")
    assert len(second.losses) == len(BATCHES)
    assert_same_bits(second.net.state_dict(), whole.net.state_dict())
    assert_same_bits(second.optimizers().optimizer.state_dict(), whole.optimizers().optimizer.state_dict())


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of pyproject.toml as an installed distribution has them, installed or not."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "asgc-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: asgc\nVersion: 0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in declared.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("package", [L, pytorch_lightning], ids=lambda p: p.__name__)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_trainer_that_clips_as_well_is_stopped_before_it_trains(package: Any, wrapped: bool) -> None:
    def make(params: Any) -> Any:
        return wrap(torch.optim.SGD(params, lr=0.1)) if wrapped else ASGC(params, 0.02)

    module = module_class(package.LightningModule)(make)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"gradient_clip_val=0\.5.*ASGC clips itself: leave gradient_clip_val out"):
        fit(trainer(package, gradient_clip_val=0.5), module)
    assert module.losses == []
    assert_same_bits(module.state_dict(), before)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "make",
    [
        lambda params: torch.optim.Adam(params, lr=0.01),
        lambda params: ASGC(params, 0.01, clip_factor=float("inf")),  # noise only
    ],
    ids=["adam", "noise only"],
)
def test_clipping_elsewhere_is_left_alone(make: Any) -> None:
    module = Module(make)
    fit(trainer(gradient_clip_val=0.5, max_epochs=1), module)
    assert len(module.losses) == len(BATCHES)


@pytest.mark.usefixtures("installed")
def test_a_module_that_decides_what_is_clipped_goes_on() -> None:
    class Own(Module):  # type: ignore[valid-type, misc]
        def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
            assert isinstance(optimizer, ASGC)  # so nothing to clip here

    module = Own(lambda params: ASGC(params, 0.01))
    fit(trainer(gradient_clip_val=0.5, max_epochs=1), module)
    assert len(module.losses) == len(BATCHES)
