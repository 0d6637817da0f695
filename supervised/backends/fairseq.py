"""fairseq (Ott et al., 2019, arXiv 1904.01038): its Transformer, its loss, its Trainer, driven update by update.

What is fairseq's own: model and initialization, label smoothing,
one update (`fairseq.trainer.Trainer.train_step`: seeding by the number of the update, accumulation, normalization by
target tokens, the check of the gradient's norm) and its beam search. What each update learns from and its learning rate
come from outside.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from fairseq import options as fairseq_options
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from fairseq.sequence_generator import SequenceGenerator
from fairseq.trainer import Trainer
from torch import Tensor, nn

from evaluation.cli.errors import UserError, reason
from evaluation.runs import seeding
from evaluation.runs.lr_schedule import LRSchedule
from evaluation.runs.make_optimizer import options_of
from evaluation.runs.weight_average import WeightAverage
from supervised.backends import own_logging
from supervised.config import TrainConfig
from supervised.distributed import ALONE, Group
from supervised.fairseq_plugin.optimizers import fairseq_name
from supervised.fairseq_plugin.prepared_text import PreparedText, SubwordDictionary
from supervised.learner import Learner
from supervised.tasks.task import Task
from supervised.text.batches import TextBatch
from supervised.text.subwords import BOS, EOS, PAD
from supervised.text.transformer import Transformer, TransformerSize

Precision = Literal["fp32", "bf16", "bf16-weights"]
SCHEDULER = "given"
# Of torch, about how fairseq's attention calls it.
warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)


def size_flags(size: TransformerSize) -> list[str]:
    """fairseq's flags of a Transformer of this size, with one matrix for all embeddings and the output."""
    values: dict[str, Any] = {
        "--dropout": size.dropout,
        "--attention-dropout": size.attention_dropout,
        "--activation-dropout": size.relu_dropout,
    }
    for side in ("encoder", "decoder"):
        values |= {
            f"--{side}-layers": size.layers,
            f"--{side}-embed-dim": size.width,
            f"--{side}-ffn-embed-dim": size.feed_forward,
            f"--{side}-attention-heads": size.heads,
        }
    words = [word for flag, value in values.items() for word in (flag, str(value))]
    normalize = ["--encoder-normalize-before", "--decoder-normalize-before"] if size.pre_norm else []
    return ["--share-all-embeddings", *words, *normalize]


@dataclass
class GivenConfig(FairseqDataclass):
    """Nothing to be set."""


@register_lr_scheduler(SCHEDULER, dataclass=GivenConfig)
class Given(FairseqLRScheduler):  # type: ignore[misc]
    """Leaves the learning rates as they are: who drives the updates sets them."""


class _Task(PreparedText):
    """Keeps the sums of an update's losses as they are: fairseq itself tells them rounded, in bits.

    Attributes:
        sums: loss and negative log-likelihood of the batches since somebody emptied it.
        autocast: the context of forward passes.
    """

    sums: list[tuple[Tensor, Tensor]]
    autocast: AbstractContextManager[Any]

    def train_step(
        self, sample: Any, model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """`FairseqTask.train_step`, whose autocast is for its own kind of mixed precision only."""
        model.train()
        model.set_num_updates(update_num)
        with self.autocast:
            loss, sample_size, logged = criterion(model, sample)
        optimizer.backward(loss)
        self.sums.append((logged["loss"], logged["nll_loss"]))
        return loss, sample_size, logged


class FairseqTransformer(nn.Module):
    """fairseq's Transformer, called like this package's."""

    def __init__(self, network: nn.Module, dictionary: SubwordDictionary) -> None:
        super().__init__()
        self.network, self._dictionary = network, dictionary

    def forward(self, source: Tensor, target_input: Tensor) -> Tensor:
        """Logits (B, T, V) of padded sources (B, S) and targets with their begin (B, T)."""
        logits: Tensor = self.network(source, source.ne(PAD).sum(1), target_input)[0]
        return logits

    @torch.no_grad()
    def translate(
        self, source: Tensor, *, beam: int = 4, length_penalty: float = 0.6, max_ratio: float = 1.2, max_more: int = 10
    ) -> list[list[int]]:
        """fairseq's beam search: the best translation of each padded source (B, S), without begin and end.

        Args:
            length_penalty: scores are divided by length ** length_penalty.
            max_ratio, max_more: a translation is at most max_ratio * (length of the source) + max_more long.
        """
        training = self.network.training
        generator = SequenceGenerator(
            [self.network],
            self._dictionary,
            beam_size=beam,
            len_penalty=length_penalty,
            max_len_a=max_ratio,
            max_len_b=max_more,
        )
        inputs = {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}
        found = generator.generate([self.network], {"net_input": inputs}, bos_token=BOS)
        self.network.train(training)
        return [[token for token in best[0]["tokens"].tolist() if token != EOS] for best in found]


def sample_of(batch: TextBatch, tokens: int | None = None) -> dict[str, Any]:
    """A batch as fairseq takes it. Who knows its number of target tokens spares a GPU the wait for it."""
    source, target_input, target_output = batch
    return {
        "id": torch.arange(len(source)),
        "nsentences": len(source),
        "ntokens": int(target_output.ne(PAD).sum()) if tokens is None else tokens,
        "net_input": {
            "src_tokens": source,
            "src_lengths": source.ne(PAD).sum(1),
            "prev_output_tokens": target_input,
        },
        "target": target_output,
    }


@dataclass(frozen=True)
class Updated:
    """What an update told: sums over its target tokens, and how many there were."""

    loss: Tensor
    negative_log_likelihood: Tensor
    tokens: int


class Engine:
    """fairseq's Trainer and all that it needs, one update at a time.

    Args:
        vocabulary: subwords of both languages together, special ones included.
        size: of the model.
        optimizer, lr, options: a registered optimizer (`asgc.optimizers`).
        label_smoothing: share of the target that is spread over the other subwords.
        seed: of weights and dropout.
        device: where.
        precision: bf16: autocast; bf16-weights: fairseq's own, a model in bf16 and fp32 copies in the optimizer.

    Attributes:
        model: as this package's models are called.
        optimizer: torch's, in it.
        updates: so far.
    """

    def __init__(
        self,
        vocabulary: int,
        size: TransformerSize,
        *,
        optimizer: str,
        lr: float,
        options: Mapping[str, Any] | None = None,
        label_smoothing: float = 0.1,
        seed: int = 1,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        max_length: int = 1024,
    ) -> None:
        self.device = torch.device(device)
        chosen = ["--optimizer", fairseq_name(optimizer), "--lr", repr(lr), "--lr-scheduler", SCHEDULER]
        cfg = _configuration(
            [
                *("DATA", "--task", "prepared_text", "--arch", "transformer", *size_flags(size), *chosen),
                *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", repr(label_smoothing)),
                *("--max-source-positions", str(max_length), "--max-target-positions", str(max_length)),
                *("--seed", str(seed), "--max-tokens", "1", "--distributed-world-size", "1"),
                *(["--cpu"] if self.device.type == "cpu" else []),
            ]
        )
        for name, value in (options or {}).items():
            cfg.optimizer[f"asgc_{name}"] = list(value) if isinstance(value, tuple) else value
        cfg.common.bf16 = precision == "bf16-weights"  # the flag --bf16 means TPUs as well
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        dictionary = SubwordDictionary.numbered(vocabulary)
        self._task = _Task(cfg.task, dictionary)
        self._task.sums = []
        self._task.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
        metrics.reset()
        torch.manual_seed(seed)
        network = self._task.build_model(cfg.model)
        self._trainer = Trainer(cfg, self._task, network, self._task.build_criterion(cfg.criterion))
        self.model = FairseqTransformer(self._trainer.model, dictionary)
        try:
            self.optimizer: torch.optim.Optimizer = self._trainer.optimizer.optimizer
        except (TypeError, ValueError) as error:
            raise UserError(f"--optimizer {optimizer}: {error}") from error

    @property
    def updates(self) -> int:
        return int(self._trainer.get_num_updates())

    def update(self, batches: Sequence[TextBatch], tokens: Sequence[int] | None = None) -> Updated:
        """One step of the optimizer on the mean loss over all target tokens of the batches.

        Args:
            tokens: of each batch, if they are known.
        """
        counts = [None] * len(batches) if tokens is None else tokens
        samples = [sample_of(*both) for both in zip(batches, counts, strict=True)]
        self._task.sums.clear()
        try:
            self._trainer.train_step(samples)
        except FloatingPointError as error:
            raise UserError(
                f"fairseq stops: {reason(error)}; a lower --optimizer.lr may help, or --backend native"
            ) from error
        loss, likelihood = (torch.stack(sums).sum(0) for sums in zip(*self._task.sums, strict=True))
        return Updated(loss, likelihood, sum(sample["ntokens"] for sample in samples))

    def losses(self, batch: TextBatch) -> Updated:
        """The same of a batch in evaluation mode, without learning."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self._task.autocast:
                sample = sample_of(batch)
                _, _, logged = self._trainer.get_criterion()(self._trainer.model, sample)
        finally:
            self.model.train(training)
        return Updated(logged["loss"], logged["nll_loss"], sample["ntokens"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        state = {"model": self.model.state_dict(), "optimizer": self._trainer.optimizer.state_dict()}
        return state | {"updates": self.updates, "copies": self._copies()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._trainer.optimizer.load_state_dict(state["optimizer"])
        self._trainer.set_num_updates(state["updates"])
        with torch.no_grad():
            for copy, saved in zip(self._copies(), state["copies"], strict=True):
                copy.copy_(saved)

    def _copies(self) -> list[Tensor]:
        """The weights in fp32 beside a model in bf16, which fairseq's own checkpoints leave out."""
        return [copy.detach() for copy in getattr(self._trainer.optimizer, "fp32_params", ())]


def model_like(native: Transformer) -> FairseqTransformer:
    """fairseq's model with the size and vocabulary of one of this package's, to be given weights."""
    return Engine(native.embedding.num_embeddings, native.size, optimizer="sgd", lr=1.0).model


def _configuration(flags: Sequence[str]) -> Any:
    """fairseq's configuration of a command line."""
    with own_logging(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Hydra, about fairseq
        parser = fairseq_options.get_training_parser()
        return convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, list(flags)))


class FairseqLearner(Learner):
    """An `Engine` in the place of a `Learner`: the trainer around it need not know.

    Args:
        config: as `preflight.choose` gives it.
        task: of whose own Transformer the size is taken.
        device: where.
        group: must be of one process.
        updates: of the whole run.
    """

    def __init__(self, config: TrainConfig, task: Task, device: torch.device, group: Group, updates: int) -> None:
        if group.ranks > ALONE.ranks:
            raise UserError("--backend fairseq: one process only; fairseq-train itself trains on several GPUs")
        self.device, self._group, self._sharding = device, group, None
        self._bf16 = config.precision == "bf16"
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            mine = task.make_model()
        assert isinstance(mine, Transformer)  # the configuration's check says so
        self._engine = Engine(
            mine.embedding.num_embeddings,
            mine.size,
            optimizer=config.optimizer.name,
            lr=config.optimizer.lr,
            options=options_of(config.optimizer, config.seed),
            label_smoothing=config.label_smoothing,
            seed=seeding.derive(config.seed, "fairseq") % (1 << 31),
            device=device,
            precision="bf16" if self._bf16 else "fp32",
        )
        self.model, self.optimizer = self._engine.model, self._engine.optimizer
        self.lr_schedule = LRSchedule(self.optimizer, config.lr_schedule, updates)
        self.average = None if config.ema_decay is None else WeightAverage(self.model, config.ema_decay)
        self.around_step = nullcontext
        around = ExitStack()
        self.optimizer.register_step_pre_hook(lambda *_: around.enter_context(self.around_step()))
        self.optimizer.register_step_post_hook(lambda *_: around.close())

    def update(self, batches: Sequence[tuple[Tensor, ...]], items: int) -> dict[str, Tensor]:
        """One step of the optimizer; returns means over the target tokens, which fairseq counts itself."""
        done = self._engine.update([TextBatch(*batch) for batch in batches])
        self.lr_schedule.step()
        if self.average is not None:
            self.average.update()
        return {"loss": done.loss / done.tokens, "nll": done.negative_log_likelihood / done.tokens}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._engine.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._engine.load_state_dict(state)
