"""The Transformer's speed bench: turns, ratios, and that what it times really trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import translation_speed as bench
from benchmarks.translation_speed import Contestant, Setting
from evaluation.cli.errors import UserError
from supervised.text.batches import TextBatch
from supervised.text.subwords import PAD


def test_rounds_are_taken_in_turns_and_nobody_is_always_first(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    now = 0.0

    def learner(name: str, seconds: float) -> Contestant:
        def update(_: TextBatch) -> None:
            nonlocal now
            now += seconds
            log.append(name)

        return Contestant(name, update, 0)

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now)
    batches: list[Any] = [None] * 3
    seconds = bench.measure([learner("a", 1.0), learner("b", 2.0)], batches, 2, torch.device("cpu"))
    burn_in = bench.BURN_IN
    assert log == ["a"] * burn_in + ["b"] * burn_in + ["a"] * 3 + ["b"] * 6 + ["a"] * 3
    assert seconds == [[3.0, 3.0], [6.0, 6.0]]


def test_ratio_is_the_median_of_the_rounds_ratios_to_the_fastest_fairseq() -> None:
    def nothing(_: TextBatch) -> None: ...

    contestants = [
        Contestant("fairseq, bf16", nothing, 10, fairseq=True),
        Contestant("fairseq, bf16-weights", nothing, 10, fairseq=True),
        Contestant("ours", nothing, 10),
    ]
    lines = bench.report(contestants, [[4, 4, 8], [2, 2, 4], [1, 4, 1]], 100).splitlines()
    assert lines[0].startswith("fairseq, bf16                 25 tokens/s  (min 12, max 25)")
    assert lines[3:] == ["ours: ratio 2.00x"]


def test_made_up_pairs_are_batched_by_tokens() -> None:
    sources, targets = bench.made_up(2000, 50)
    assert 25 < sum(map(len, sources)) / 2000 < 33
    assert min(one.min() for one in targets) >= 4
    assert max(one.max() for one in targets) < 50
    batches = bench.batches_of(sources, targets, 300, 5)
    assert len(batches) == 5
    assert all(max(batch.source.numel(), batch.target_output.numel()) <= 300 for batch in batches)
    with pytest.raises(UserError, match="fewer --updates"):
        bench.batches_of(sources[:10], targets[:10], 300, 5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_train_the_same_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fairseq", reason="fairseq is not installed: pip install 'asgc[fairseq]'")
    monkeypatch.setitem(bench.SIZES, "tiny", (1, 16, 2, 32))
    setting = Setting("tiny", 60, "asgc", "bf16", torch.device("cpu"))
    (batch,) = bench.batches_of(*bench.made_up(200, 60), 200, 1)
    models = {name: make(setting) for name, make in bench.MODELS.items()}
    for name, model in models.items():
        before = [parameter.detach().clone() for parameter in model.parameters()]
        contestant = bench.in_our_loop(name, model, setting)
        contestant.update(batch)
        assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert (
        bench.main(["--size", "tiny", "--vocabulary", "60", "--tokens", "200", "--rounds", "2", "--device", "cpu"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len({line.split(")  ")[1] for line in lines if "parameters" in line}) == 1
    assert lines[-1].partition(": ratio ")[2].endswith("x")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_loss_is_a_mean_over_target_tokens() -> None:
    """The logits' own gradient tells it: with one target token the whole of it is that token's."""

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.zeros(1, 3, 7))

        def forward(self, source: torch.Tensor, target_input: torch.Tensor) -> torch.Tensor:
            return self.logits + 0.0

    model = Logits()
    setting = Setting("tiny", 7, "sgd", "fp32", torch.device("cpu"))
    target = torch.tensor([[5, PAD, PAD]])
    bench.in_our_loop("one", model, setting).update(TextBatch(target, target, target))
    smoothing = bench.LABEL_SMOOTHING
    gradient = torch.full((7,), 1 / 7) - smoothing / 7
    gradient[5] -= 1 - smoothing
    assert torch.allclose(model.logits.detach()[0, 0], -bench.LR * gradient)
    assert not model.logits.detach()[0, 1:].any()
