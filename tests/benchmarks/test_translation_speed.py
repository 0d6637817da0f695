"""The Transformer's speed bench: turns, ratios, and that what it times really trains."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from benchmarks import translation_speed as bench
from benchmarks import turns
from benchmarks.made_up import sentences
from benchmarks.translation_speed import Contestant, Setting
from benchmarks.turns import Turn
from evaluation.cli.errors import UserError
from supervised.cli import main
from supervised.text.batches import TextBatch
from supervised.text.subwords import PAD
from supervised.text.transformer import TransformerSize


def test_rounds_are_taken_in_turns_and_nobody_is_always_first(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    learned: list[int] = []
    now = 0.0

    def learner(name: str, seconds: float) -> Contestant:
        def update(_: TextBatch, tokens: int) -> None:
            nonlocal now
            now += seconds
            log.append(name)
            learned.append(tokens)

        return Contestant(name, update, torch.nn.Linear(1, 1))

    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr(turns, "_cpu_seconds", lambda: now / 2)
    batches: list[Any] = [None] * 3
    found = bench.measure([learner("a", 1.0), learner("b", 2.0)], batches, [5, 6, 7], 2, torch.device("cpu"))
    burn_in = bench.BURN_IN
    assert log == ["a"] * burn_in + ["b"] * burn_in + ["a"] * 3 + ["b"] * 6 + ["a"] * 3
    assert learned == [5, 6] * 2 + [5, 6, 7] * 4
    assert found == [[Turn(3.0, 1.5)] * 2, [Turn(6.0, 3.0)] * 2]


def _turns(*seconds: float) -> list[Turn]:
    return [Turn(one, one) for one in seconds]


def test_ratio_is_the_median_of_the_rounds_ratios_to_the_fastest_fairseq() -> None:
    def nothing(_: TextBatch, tokens: int) -> None: ...

    contestants = [
        Contestant("fairseq, bf16", nothing, torch.nn.Linear(1, 1), fairseq=True),
        Contestant("fairseq, bf16-weights", nothing, torch.nn.Linear(1, 1), fairseq=True),
        Contestant("ours", nothing, torch.nn.Linear(1, 1)),
    ]
    lines = bench.report(contestants, [_turns(4, 4, 8), _turns(2, 2, 4), _turns(1, 4, 1)], 100).splitlines()
    assert lines[0].startswith(
        "fairseq, bf16               25.0 tokens/s  (min 12.5, max 25.0), 25.0 in a second of a core"
    )
    assert lines[3:] == ["ours: 2.00x by processor time; ratio: 2.00x"]


def test_made_up_pairs_are_batched_by_tokens() -> None:
    sources, targets = sentences(2000, 50)
    assert 25 < sum(map(len, sources)) / 2000 < 33
    assert min(one.min() for one in targets) >= 4
    assert max(one.max() for one in targets) < 50
    batches = bench.batches_of(sources, targets, 300, 5)
    assert len(batches) == 5
    assert all(max(batch.source.numel(), batch.target_output.numel()) <= 300 for batch in batches)
    with pytest.raises(UserError, match="fewer --updates"):
        bench.batches_of(sources[:10], targets[:10], 300, 5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_train_the_same_size_on_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fairseq", reason="fairseq is not installed: pip install 'asgc[fairseq]'")
    monkeypatch.setattr(bench, "SIZES", {"tiny": TransformerSize(1, 16, 2, 32, dropout=0.0)})
    monkeypatch.setattr(bench, "LR", 0.1)
    setting = Setting("tiny", 60, "sgd", "fp32", torch.device("cpu"))
    (batch,) = bench.batches_of(*sentences(200, 60), 200, 1)
    (theirs,), plain, mine = bench.fairseqs(setting), bench.fairseq_model(setting), bench.ours(setting)
    plain.model.load_state_dict(theirs.model.state_dict())
    for contestant in (theirs, plain, mine):
        before = [parameter.detach().clone() for parameter in contestant.model.parameters()]
        contestant.update(batch, int(batch.target_output.ne(PAD).sum()))
        assert not all(torch.equal(a, b) for a, b in zip(before, contestant.model.parameters(), strict=True))
    # With fairseq's Trainer and without it: the same loss, the same step.
    for a, b in zip(theirs.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    found = bench.report([theirs, plain, mine], [_turns(1)] * 3, 10).splitlines()[:3]
    assert len({line.split("core  ")[1] for line in found}) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_prints_the_ratio_last(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fairseq", reason="fairseq is not installed: pip install 'asgc[fairseq]'")
    monkeypatch.setattr(bench, "SIZES", {"tiny": TransformerSize(1, 16, 2, 32)})
    flags = "bench --task wmt14 --model tiny --vocabulary 300 --batch-size 200 --rounds 2 --device cpu --precision bf16"
    assert main([*flags.split(), "--threads", "1", "--profile"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shares = [int(found[1]) for line in lines if (found := re.search(r": (\d+)% of the time is matrix products", line))]
    assert len(shares) == 4
    assert all(0 < share < 100 for share in shares)
    assert sum("tokens/s" in line for line in lines) == 4
    assert lines[-1].startswith("asgc-sup: ")
    assert float(lines[-1].split()[-1].rstrip("x")) > 0
