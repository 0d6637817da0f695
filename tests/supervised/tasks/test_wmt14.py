"""The task of translating, and whole runs of it on a language that is learned in seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluation.cli.errors import UserError
from evaluation.runs.run_folder import load_summary, read_metrics, read_series
from supervised import train
from supervised.distributed import ALONE
from supervised.eval_cli import main as eval_command
from supervised.model import build, load
from supervised.order import first
from supervised.tasks.wmt14 import WMT14
from supervised.text.batches import collate
from supervised.text.corpora import open_corpus
from supervised.text.prepare import prepare
from supervised.text.subwords import BOS, EOS, Subwords
from supervised.text.token_files import VOCABULARY, TokenPairs
from supervised.text.transformer import Transformer
from supervised.text.translate import translate_lines
from supervised.translate_cli import main as translate_command
from tests.supervised.test_trainer import Killed, StopAt, numbers, weights
from tests.supervised.text.written import parallel
from tests.supervised.toy_text import config_of, prepared, sentences

pytest.importorskip("sentencepiece")
pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def learned(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    train(config_of(text, run))
    return run


def task_of(text: Path, **options: Any) -> WMT14:
    return WMT14(config_of(text, **options), ALONE, print)


def network(run: Path) -> Transformer:
    model = build(load(run, "cpu"))
    assert isinstance(model, Transformer)
    return model


def one_by_one(model: Transformer, pairs: TokenPairs, chosen: Any) -> tuple[float, float, int]:
    """Negative log-likelihood and right subwords of each sentence by itself, without padding, and how many there are:
    with the end, which is said as well."""
    nll, right, count = 0.0, 0.0, 0
    for index in chosen:
        source, target = (list(map(int, side)) for side in (pairs.source(index), pairs.target(index)))
        with torch.inference_mode():
            logits = model(torch.tensor([[*source, EOS]]), torch.tensor([[BOS, *target]]))[0]
        labels = torch.tensor([*target, EOS])
        nll += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return nll, right, count


def test_a_run_learns_to_translate(learned: Path) -> None:
    """The words are drawn: what is said of new sentences is no memory of the training text."""
    curve = read_series(learned, "eval", "score")
    assert curve["step"].tolist() == [100, 200]
    assert load_summary(learned)["mean_score"] > 50 > curve["value"][0]
    losses = read_series(learned, "train", "loss")["value"]
    assert losses[0] == pytest.approx(np.log(290), abs=1.5)
    assert losses[-1] < 0.7
    source, target = zip(*sentences(40, 7), strict=True)
    subwords = Subwords.load(learned / VOCABULARY)
    found = translate_lines(network(learned), subwords, source, 4, 0.6)
    words = [
        (a, b)
        for one, other in zip(found, target, strict=True)
        for a, b in zip(one.split(), other.split(), strict=False)
    ]
    assert np.mean([a == b for a, b in words]) > 0.7


def test_bleu_is_that_of_sacrebleus_command(learned: Path, text: Path, tmp_path: Path) -> None:
    summary, pairs = load_summary(learned), TokenPairs(text, "test")
    found = translate_lines(network(learned), Subwords.load(learned / VOCABULARY), pairs.texts.source, 2, 0.6)
    references, translations = tmp_path / "references", tmp_path / "translations"
    references.write_text("".join(f"{line}\n" for line in pairs.texts.target), encoding="utf-8")
    translations.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(references), "-i", str(translations), "-m", "bleu", "chrf"]
    said = subprocess.run([*command, "-w", "12", "-f", "json"], capture_output=True, text=True, check=True).stdout
    bleu, chrf = json.loads(said)
    assert len(pairs) == 20
    test = summary["test"]
    assert 0 < test["score"] < 100
    assert test["score"] == pytest.approx(bleu["score"], abs=1e-9)
    assert test["chrf"] == pytest.approx(chrf["score"], abs=1e-9)
    assert summary["bleu_signature"] == test["bleu_signature"] == bleu["signature"]
    assert summary["chrf_signature"] == test["chrf_signature"] == chrf["signature"]


def test_likelihood_and_accuracy_are_those_of_each_sentence_alone(learned: Path, text: Path) -> None:
    model = network(learned)
    for split, file, name in (("validation", "valid", "eval"), ("test", "test", "test")):
        pairs = TokenPairs(text, file)
        chosen = first(len(pairs), 20 if split == "validation" else None, "sentences")
        nll, right, count = one_by_one(model, pairs, chosen.tolist())
        assert count == int((pairs.target_lengths[chosen] + 1).sum())
        expected = {"nll": nll / count, "perplexity": np.exp(nll / count), "accuracy": 100 * right / count}
        logged = {row.name: row.value for row in read_metrics(learned) if row.split == name and row.step == 200}
        summary = load_summary(learned) if split == "validation" else load_summary(learned)["test"]
        for metric, value in expected.items():
            assert logged[metric] == pytest.approx(value, rel=1e-4)
            assert summary[metric] == logged[metric]
        for batch, metric in ((7, "likelihood"), (64, "accuracy")):
            task = task_of(text, evaluation={"metric": metric, "batch_size": batch, "sentences": 20})
            with torch.inference_mode():
                scores = task.evaluate(model, split, final=True, tell=lambda done, total: None)
            assert scores.score == pytest.approx(-nll / count if metric == "likelihood" else 100 * right / count)
            assert scores.values["nll"] == pytest.approx(nll / count, rel=1e-4)
            assert f"{len(chosen)} sentences" in scores.words


def test_the_gap_compares_references_of_one_kind(tmp_path: Path) -> None:
    """Subwords write "\ufb01" as "fi": a model that knows its training and validation sentences by heart has no gap,
    whatever its BLEU on the validation text as it is written."""
    pairs = [(one, f"{other} \ufb01n \u2026") for one, other in sentences(400, 0, 4)]
    folder = parallel(tmp_path / "text", {"train": pairs, "valid": pairs[:30], "test": pairs[:20]})
    data = tmp_path / "prepared"
    prepare(open_corpus(str(folder), source="en", target="de"), data, vocab_size=300)
    run = tmp_path / "run"
    evaluation = {"interval": 2, "train_subset": 30, "beam": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WMT14, "_translated", lambda task, model, split, chosen, tell: task._spoken(split, chosen))
        train(config_of(data, run, total_steps=2, evaluation=evaluation))
    summary = load_summary(run)
    assert summary["mean_score"] < 90
    assert summary["generalization_gap"] == pytest.approx(0)


def test_scheduled_evaluations_take_fewer_sentences_and_none_of_the_test(learned: Path) -> None:
    rows = read_metrics(learned)
    assert {row.step for row in rows if row.split == "test"} == {200}
    assert {row.step for row in rows if row.split == "train_eval" and row.name == "score"} == {100, 200}
    scores = {(row.split, row.step): row.value for row in rows if row.name == "score"}
    gaps = [scores["train_eval", step] - scores["eval", step] for step in (100, 200)]
    assert load_summary(learned)["generalization_gap"] == pytest.approx(np.mean(gaps))
    assert load_summary(learned)["signature"]["sentences"] == 20


def test_the_parts_that_are_evaluated(learned: Path, text: Path) -> None:
    task, model, told = task_of(text), network(learned), []
    with torch.inference_mode():
        some = task.evaluate(model, "validation", final=False, tell=lambda *done: told.append(done))
        every = task.evaluate(model, "validation", final=True, tell=lambda *done: told.append(done))
        known = task.evaluate(model, "train_subset", final=False, tell=lambda *done: told.append(done))
    assert [some.words, every.words, known.words] == [f"BLEU of {n} sentences" for n in (20, 20, 25)]
    assert {total for _, total in told} == {20, 25}
    assert some == every  # the last evaluation is of the same sentences: a curve is of one set
    assert every.score == pytest.approx(load_summary(learned)["mean_score"])
    assert all(done <= total for done, total in told)


def test_the_loss_is_the_mean_over_the_target_tokens_and_their_ends(text: Path, tmp_path: Path) -> None:
    """Computed from logits by torch, with fairseq's convention of label smoothing."""
    task, pairs = task_of(text, label_smoothing=0.2), TokenPairs(text, "train")
    torch.manual_seed(0)
    model = task.make_model()
    update = task.order.update(3)
    total, nll = 0.0, 0.0
    for index in update.indices:
        source, target = (
            torch.from_numpy(side.astype(np.int64)) for side in (pairs.source(index), pairs.target(index))
        )
        end, begin = torch.tensor([EOS]), torch.tensor([BOS])
        log_probabilities = model(torch.cat([source, end])[None], torch.cat([begin, target])[None])[0].log_softmax(1)
        right = log_probabilities.gather(1, torch.cat([target, end])[:, None])[:, 0]
        others = log_probabilities.sum(1) - right
        total -= float((0.8 * right + 0.2 / 289 * others).sum().detach())
        nll -= float(right.sum().detach())
    found = task.loss(model, task.fetch(update.indices, 0))
    assert update.items == sum(int(pairs.target_lengths[index]) + 1 for index in update.indices)
    assert float(found.total.detach()) == pytest.approx(total, rel=1e-5)
    assert float(found.values["nll"]) == pytest.approx(nll, rel=1e-5)


def test_an_epoch_has_every_pair_once_in_batches_of_at_most_so_many_tokens(text: Path) -> None:
    task, pairs = task_of(text, **{"data.train_size": 700}), TokenPairs(text, "train")
    seen: list[int] = []
    for number in range(task.order.updates_per_epoch):
        update = task.order.update(number)
        seen += update.indices.tolist()
        widest = max(pairs.source_lengths[update.indices].max(), pairs.target_lengths[update.indices].max()) + 1
        assert widest * len(update.indices) <= 200
    assert len(seen) == len(set(seen)) == 700
    assert task.order.samples(task.order.updates_per_epoch) == 700


def test_batches_are_the_text(text: Path) -> None:
    task, pairs = task_of(text), TokenPairs(text, "train")
    indices = task.order.update(5).indices
    expected = collate([pairs.source(i) for i in indices], [pairs.target(i) for i in indices])
    for found, wanted in zip(task.fetch(indices, 0), expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_batch_in_several_passes_gives_the_same_weights(text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"total_steps": 6, "optimizer": {"name": "sgd", "lr": 0.5}, "label_smoothing": 0.1}
    options["evaluation"] = {"metric": "accuracy", "train_subset": 0}
    for name, limit in (("one", None), ("several", 70)):
        train(config_of(text, tmp_path / name, device_batch=limit, **options))
    task = task_of(text, device_batch=70)
    assert {task.passes(task.order.update(k).indices) for k in range(6)} <= {2, 3, 4}
    one, several = weights(tmp_path / "one"), weights(tmp_path / "several")
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, several[name], rtol=1e-4, atol=1e-6)
    losses = [read_series(tmp_path / name, "train", "loss")["value"] for name in ("one", "several")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


SHORT: dict[str, Any] = {
    "total_steps": 24,
    "checkpoint_interval": 9,  # an epoch has 38 updates
    "model": {"name": "tiny"},  # with its dropout
    "evaluation": {"interval": 12, "metric": "accuracy", "train_subset": 5},
}


def test_resumed_in_the_middle_of_an_epoch_is_uninterrupted_bit_for_bit(text: Path, tmp_path: Path) -> None:
    assert task_of(text).order.updates_per_epoch not in (9, 18)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config_of(text, whole, **SHORT))
    for step in (14, 22):
        with pytest.raises(Killed):
            train(config_of(text, killed, **SHORT), resume=killed.exists(), watchers=[StopAt(step)])
    train(config_of(text, killed, **SHORT), resume=True)
    assert numbers(whole) == numbers(killed)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(killed)[name]), name


def test_text_that_has_changed_is_refused(text: Path, tmp_path: Path) -> None:
    """By resume, eval and translate: other subwords mean other words."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(text, data)
    with pytest.raises(Killed):
        train(config_of(data, run, **SHORT), watchers=[StopAt(10)])
    shutil.rmtree(data)
    shutil.copytree(prepared(tmp_path / "fewer", train=900), data)
    with pytest.raises(
        UserError, match=r"is not the data that .* was begun with .*vocabulary.*number of training samp"
    ):
        train(config_of(data, run, **SHORT), resume=True)
    with pytest.raises(UserError, match="was trained on data with other vocabulary than"):
        eval_command([str(run)])
    shutil.rmtree(data)
    shutil.copytree(text, data)
    train(config_of(data, run, **SHORT), resume=True)  # nothing was lost
    eval_command([str(run)])
    shutil.copy(tmp_path / "fewer" / "prepared" / VOCABULARY, run / VOCABULARY)
    with pytest.raises(UserError, match="is not the vocabulary that the model was trained with"):
        translate_command([str(run)])


def test_text_that_does_not_fit_the_options_is_refused(text: Path, tmp_path: Path) -> None:
    for options, line in (
        ({"data.vocabulary": 300}, "--data.vocabulary 300: .* was prepared with 290 subwords"),
        ({"data.source": "de", "data.target": "en"}, "--data.source de --data.target en: .* was prepared for en-de"),
    ):
        with pytest.raises(UserError, match=line):
            train(config_of(text, tmp_path / "run", **options))
    with pytest.raises(UserError, match=r"--model smal: no size of the Transformer; did you mean 'small'"):
        train(config_of(tmp_path / "nowhere", tmp_path / "run", model={"name": "smal"}))
    with pytest.raises(UserError, match=r"there is no .*nowhere.train.en: --data takes dict-ende, wmt14, a folder"):
        train(config_of(tmp_path / "nowhere", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_broken_prepared_files_are_named(text: Path, tmp_path: Path) -> None:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-3])

    for number, (name, break_it, line) in enumerate(
        (
            ("train.target.tokens", cut, "train.target.tokens is damaged or not of this folder's data"),
            ("valid.source.offsets", Path.unlink, "valid.source.offsets is damaged .*No such file"),
            (VOCABULARY, cut, "is no vocabulary|is another vocabulary"),
            ("info.json", cut, "info.json cannot be read"),
            ("test.target.txt", Path.unlink, "test.target.txt is damaged"),  # only the last evaluation needs it
        )
    ):
        data = tmp_path / str(number)
        shutil.copytree(text, data)
        break_it(data / name)
        with pytest.raises(UserError, match=line):
            train(config_of(data, tmp_path / f"run-{number}", total_steps=1))
        assert not (tmp_path / f"run-{number}").exists()


def test_a_size_has_its_own_dropout_and_norms_unless_they_are_given(text: Path) -> None:
    facts = {"subwords": 290}
    for name, options, expected in (
        ("tiny", {}, (0.1, True)),
        ("base", {}, (0.1, False)),
        ("big", {}, (0.3, False)),
        ("tiny", {"dropout": 0.25, "pre_norm": False}, (0.25, False)),
    ):
        config = config_of(text)
        config.model = type(config.model)(name=name, **options)
        with torch.device("meta"):
            model = WMT14.build(config, facts)
        assert isinstance(model, Transformer)
        assert (model.size.dropout, model.size.pre_norm) == expected
