"""fairseq driven update by update, and trained on prepared text by its own commands."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed: pip install 'asgc[fairseq]'")

import supervised
from evaluation.cli.errors import UserError
from supervised import backends
from supervised.config import TrainConfig
from supervised.distributed import Group
from supervised.learner import Learner
from supervised.text.batches import TextBatch, collate
from supervised.text.subwords import BOS, EOS, PAD, UNK
from supervised.text.transformer import Transformer, TransformerSize

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of Hydra, about fairseq
fairseq = backends.load("fairseq")

VOCABULARY = 24
SIZE = TransformerSize(layers=1, width=32, heads=2, feed_forward=64)
CPU = torch.device("cpu")


def _sentences(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(UNK + 1, VOCABULARY, size=rng.integers(2, 7)) for _ in range(count)]


SOURCES = _sentences(32)
TARGETS = [source[::-1].copy() for source in SOURCES]
BATCHES = [collate(SOURCES[i : i + 16], TARGETS[i : i + 16]) for i in (0, 16)]


def _engine(**options: Any) -> Any:
    settings = {"optimizer": "asgc", "lr": 3e-3, "options": {"clip_factor": 1.5, "betas": (0.9, 0.98)}}
    return fairseq.Engine(VOCABULARY, SIZE, **settings | options)


def _through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


def test_learns_and_translates() -> None:
    engine = _engine()
    first = engine.losses(BATCHES[0])
    for k in range(300):
        engine.update([BATCHES[k % 2]])
    last = engine.losses(BATCHES[0])
    assert last.tokens == first.tokens == sum(len(target) + 1 for target in TARGETS[:16])
    assert float(last.negative_log_likelihood) < 0.2 * float(first.negative_log_likelihood)
    found = engine.model.translate(BATCHES[0].source, beam=4)
    right = sum(one == target.tolist() for one, target in zip(found, TARGETS, strict=False))
    assert right >= 12  # of 16
    assert engine.model.training


def test_the_loss_is_label_smoothed_cross_entropy_over_target_tokens() -> None:
    smoothing = 0.1
    engine = _engine(label_smoothing=smoothing)
    told = engine.losses(BATCHES[1])
    engine.model.eval()
    with torch.no_grad():
        logits = engine.model(BATCHES[1].source, BATCHES[1].target_input)
    log_p = logits.double().log_softmax(-1)
    total = likelihood = 0.0
    for row, target in zip(log_p, TARGETS[16:], strict=True):
        for position, token in enumerate([*target.tolist(), EOS]):
            others = float(row[position].sum() - row[position, token])
            likelihood -= float(row[position, token])
            total -= (1 - smoothing) * float(row[position, token]) + smoothing / (VOCABULARY - 1) * others
    assert float(told.loss) == pytest.approx(total, rel=1e-5)
    assert float(told.negative_log_likelihood) == pytest.approx(likelihood, rel=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_its_model_has_the_size_of_ours(pre_norm: bool) -> None:
    size = dataclasses.replace(SIZE, pre_norm=pre_norm, layers=2)
    theirs = fairseq.Engine(VOCABULARY, size, optimizer="sgd", lr=0.1).model
    counts = [sum(p.numel() for p in model.parameters()) for model in (theirs, Transformer(size, VOCABULARY, PAD))]
    assert counts[0] == counts[1]


def test_accumulated_batches_are_one_update() -> None:
    size = dataclasses.replace(SIZE, dropout=0.0)
    together = collate(SOURCES, TARGETS)
    one, two = (fairseq.Engine(VOCABULARY, size, optimizer="sgd", lr=0.1) for _ in range(2))
    one.update([together])
    told = two.update(BATCHES)
    assert told.tokens == int(together.target_output.ne(PAD).sum())
    assert (one.updates, two.updates) == (1, 1)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-weights"])
def test_goes_on_from_its_state(precision: str) -> None:
    whole = _engine(precision=precision)
    for k in range(6):
        if k == 3:
            state = _through_a_file(whole.state_dict())
        last = whole.update([BATCHES[k % 2]])
    resumed = _engine(precision=precision)
    resumed.load_state_dict(state)
    for k in range(3, 6):
        again = resumed.update([BATCHES[k % 2]])
    assert torch.equal(again.loss, last.loss)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_learning_rate_is_whoever_drives_it() -> None:
    engine = _engine()
    engine.optimizer.param_groups[0]["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in engine.model.parameters()]
    engine.update([BATCHES[0]])
    assert all(torch.equal(a, b) for a, b in zip(before, engine.model.parameters(), strict=True))


def _config(**changes: Any) -> TrainConfig:
    config = TrainConfig(task="wmt14", backend="fairseq", total_steps=8, label_smoothing=0.1, ema_decay=0.9, **changes)
    config.data.name = "dict-ende"
    config.optimizer.name, config.optimizer.lr = "asgc", 3e-3
    config.lr_schedule.name, config.lr_schedule.warmup = "inverse-sqrt", 4
    config.precision = "fp32"
    return config


# All that is asked of a task: its own model, whose size it is to be.
_TASK: Any = SimpleNamespace(make_model=lambda: Transformer(SIZE, VOCABULARY, PAD))


def _learner() -> Any:
    config = _config()
    cls = backends.learner_class(config)
    assert issubclass(cls, Learner)
    return cls(config, _TASK, CPU, Group(), 8)


def _update(learner: Any, batch: TextBatch) -> dict[str, float]:
    items = int(batch.target_output.ne(PAD).sum())
    return {name: float(value) for name, value in learner.update([tuple(batch)], items).items()}


def test_the_learner_is_driven_like_our_own() -> None:
    whole, steps = _learner(), []
    whole.around_step = lambda: _Noted(steps)
    rates = []
    for k in range(8):
        if k == 5:
            state = _through_a_file(whole.state_dict())
        rates.append(whole.optimizer.param_groups[0]["lr"])
        last = _update(whole, BATCHES[k % 2])
    assert rates == pytest.approx([3e-3 * min((k + 1) / 4, math.sqrt(4 / (k + 1))) for k in range(8)])
    assert steps == ["in", "out"] * 8
    resumed = _learner()
    resumed.load_state_dict(state)
    for k in range(5, 8):
        again = _update(resumed, BATCHES[k % 2])
    assert again == last
    with whole.evaluated() as model, resumed.evaluated() as other:
        assert not model.training
        logits = model(BATCHES[0].source, BATCHES[0].target_input)
        assert logits.shape == (16, BATCHES[0].target_input.shape[1], VOCABULARY)
        assert torch.equal(logits, other(BATCHES[0].source, BATCHES[0].target_input))


class _Noted:
    def __init__(self, steps: list[str]) -> None:
        self._steps = steps

    def __enter__(self) -> None:
        self._steps.append("in")

    def __exit__(self, *_: object) -> None:
        self._steps.append("out")


def test_what_it_cannot_do_is_said() -> None:
    assert list(backends.faults(_config())) == []
    (line,) = backends.faults(_config(compile=True))
    assert "compile" in line
    config = _config()
    config.optimizer.weight_decay = 0.1
    (line,) = backends.faults(config)
    assert "decays all weights" in line
    with pytest.raises(UserError, match="one process only"):
        fairseq.FairseqLearner(_config(), _TASK, CPU, Group(0, 2), 8)


GENERATE = """
import shlex, sys
train, generate = sys.argv[1:]
from fairseq_cli import generate as generation, train as training
for module, line in ((training, train), (generation, generate)):
    sys.argv = ["fairseq", *shlex.split(line)]
    module.cli_main()
"""


def _prepared(folder: Path) -> list[str]:
    """A folder as `asgc-sup data prepare` leaves it; returns the targets of its split valid."""
    pytest.importorskip("sentencepiece")
    from supervised.text.subwords import Subwords
    from supervised.text.token_files import FORMAT, INFO, OFFSET, file_of, token_type
    from supervised.text.token_files import VOCABULARY as FILE

    rng = np.random.default_rng(1)
    words = ["ein", "zwei", "drei", "vier", "Haus", "Baum", "Hund", "Katze"]
    texts = [" ".join(rng.choice(words, size=4)) for _ in range(120)]
    subwords = Subwords.train(texts, 300)
    subwords.save(folder / FILE)
    kind, counts = token_type(len(subwords)), {}
    for split, chosen in {"train": texts, "valid": texts[:8]}.items():
        ids = subwords.encode(chosen)
        flat, offsets = np.concatenate(ids).astype(kind), np.cumsum([0, *map(len, ids)]).astype(OFFSET)
        for side in ("source", "target"):
            flat.tofile(file_of(folder, split, side, "tokens"))
            offsets.tofile(file_of(folder, split, side, "offsets"))
        counts[split] = {"pairs": len(ids), "source_tokens": len(flat), "target_tokens": len(flat)}
    vocabulary = {"digest": subwords.digest, "type": kind.str}
    info = {"kind": "text", "format": FORMAT, "vocabulary": vocabulary, "splits": counts}
    (folder / INFO).write_text(json.dumps(info))
    return texts[:8]


def test_fairseqs_own_commands_train_and_generate_on_prepared_text(tmp_path: Path) -> None:
    texts = _prepared(tmp_path)
    own = f"{tmp_path} --user-dir {Path(supervised.__file__).parent / 'fairseq_plugin'} --task prepared_text --cpu"
    model = "--arch transformer " + " ".join(fairseq.size_flags(dataclasses.replace(SIZE, dropout=0.0)))
    train = (
        f"{own} {model} --optimizer asgc --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 20 --max-tokens 400 "
        "--criterion label_smoothed_cross_entropy --max-update 160 --num-workers 0 "
        "--save-dir saved --no-epoch-checkpoints"
    )
    generate = f"{own} --path saved/checkpoint_last.pt --gen-subset valid --remove-bpe sentencepiece --num-workers 0"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GENERATE, train, generate], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = dict(line.split("\t")[::2] for line in done.stdout.splitlines() if line.startswith("D-"))
    wanted = dict(line.split("\t") for line in done.stdout.splitlines() if line.startswith("T-"))
    assert sorted(wanted.values()) == sorted(texts)  # the very text
    right = sum(found[f"D-{number}"] == wanted[f"T-{number}"] for number in range(len(texts)))
    assert right >= 4, found  # of 8: what is copied, it learns soon


def test_prepared_ids_are_fairseqs_ids() -> None:
    dictionary = fairseq.SubwordDictionary.numbered(VOCABULARY)
    assert (dictionary.pad(), dictionary.bos(), dictionary.eos(), dictionary.unk()) == (PAD, BOS, EOS, UNK)
    assert len(dictionary) == VOCABULARY
    with pytest.raises(ValueError, match="equal"):
        fairseq.SubwordDictionary(["<pad>", "<s>", "</s>", "<unk>", "a", "a"])


def test_a_run_is_evaluated_and_translates_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    pytest.importorskip("sentencepiece")
    pytest.importorskip("sacrebleu")
    from supervised import cli
    from tests.supervised.toy_text import config_of, prepared

    run = tmp_path / "run"
    config = config_of(prepared(tmp_path), run, backend="fairseq", **{"gradients.enabled": False})
    supervised.train(config)
    score = json.loads((run / "summary.json").read_text())["mean_score"]
    assert score > 20  # BLEU
    assert cli.main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsysbinary.readouterr().out.splitlines()[-1])["score"] == score
    lines = io.TextIOWrapper(io.BytesIO(b"a b c d e\nh g f e\n"))
    monkeypatch.setattr(sys, "stdin", lines)
    assert cli.main(["translate", str(run)]) == 0
    assert len(capsysbinary.readouterr().out.splitlines()) == 2
