"""Every setting of a supervised run, with its help text and its allowed range.

An *update* is one step of the optimizer, on one global batch; all intervals are counted in updates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from asgc import optimizers
from asgc.options import ASGC_DEFAULTS, LIBRARY_CLASSES, reference_and_cpu_only
from evaluation.cli.optimizer_group import OptimizerConfig, OptimizerGroup
from evaluation.cli.settings import Config, option
from evaluation.cli.values import PathText
from evaluation.curvature.options import CurvatureConfig
from evaluation.runs.lr_schedule import LRScheduleConfig
from supervised import backends, data_names, tasks
from supervised.option_groups import DataConfig, EvaluationConfig, GradientsConfig, ModelConfig


@dataclass
class TrainConfig(Config):
    """One run. The CLI starts from a preset."""

    task: Literal[tuple(tasks.CLASSES)] = option("imagenet", "to classify images, to translate, or made-up streams")  # type: ignore[valid-type]
    backend: Literal["native", "fairseq"] = option("native", "whose loop and model learn (fairseq: wmt14 only)")
    seed: int = option(1, "seed of everything random", "[0, 2147483647]")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = option(None, "torch's CPU threads; null: free cores", "[1, 1024]")
    epochs: float | None = option(90.0, "passes over the training data, where --total-steps is null", "(0, 1e6]")
    total_steps: int | None = option(None, "updates of the run; null: --epochs", "[1, 1e12]")
    run_dir: PathText | None = option(None, "run folder; null: runs/DATE/DATA-MODEL-OPTIMIZER-SEED")
    batch_size: int = option(
        256,
        "images, or tokens of the longer sides with their padding, of an update over all processes and passes",
        "[1, 1e8]",
    )
    device_batch: int | None = option(
        None, "of these at once on one device, the rest one after the other; null: all of its share", "[1, 1e8]"
    )
    label_smoothing: float = option(0.0, "share of the target that is spread over all classes or subwords", "[0, 1)")
    ema_decay: float | None = option(
        None,
        "evaluations use, and models hold, a moving average of the weights with this decay per update; null: the "
        "weights themselves",
        "(0, 1)",
    )
    no_decay: bool = option(True, "no weight decay for biases and normalizations")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "auto: bf16 autocast where the hardware has it")
    channels_last: bool | None = option(None, "memory format of convolutions; null: the faster one", task="imagenet")
    sync_batch_norm: bool = option(
        True,
        "batch statistics over the samples of all processes on GPUs, not over each process's own",
        task="imagenet",
    )
    compile: bool = option(False, "torch.compile the model")
    sharded: bool = option(False, "FSDP2: parameters and optimizer spread over the processes, instead of DDP")
    deterministic: bool = option(False, "the same numbers in every run on a GPU, too; slower. On a CPU they always are")
    checkpoint_interval: int | None = option(None, "updates between checkpoints; null: an epoch", "[1, 1e12]")
    checkpoint_minutes: float = option(5.0, "minutes between checkpoints, too; inf: only by updates", "(0, inf]")
    keep_models: int | None = option(
        None, "updates between models that are kept in models/, to be averaged; null: none", "[1, 1e12]"
    )
    log_interval: int = option(100, "updates between logged metrics", "[1, 1e12]")
    tensorboard: bool = option(True, "write TensorBoard events beside metrics.jsonl")
    callbacks: list[str] | None = option(
        None, "package.module:Class of callbacks, several with commas between them: see `supervised.Callback`"
    )
    track: Literal["none", "wandb", "mlflow"] = option("none", "show the metrics in W&B or MLflow; offline by default")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerGroup = field(default_factory=OptimizerConfig)
    lr_schedule: LRScheduleConfig = field(default_factory=LRScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gradients: GradientsConfig = field(default_factory=GradientsConfig)
    curvature: CurvatureConfig = field(default_factory=CurvatureConfig)

    FOLDER = "supervised"
    PRESETS = ("imagenet", "imagenet-fast", "fashion-mnist", "digits", "wmt14", "wmt14-big", "dict-ende", "streams")

    @classmethod
    def default_preset(cls, options: Mapping[str, Any]) -> str:
        """That of the data, if it has one of its own, else the task's."""
        data, task = options.get("data.name", options.get("data")), options.get("task")
        name = data.get("name") if isinstance(data, Mapping) else data
        return name if name in cls.PRESETS else task if task in cls.PRESETS else cls.PRESETS[0]

    @classmethod
    def layered(cls, name: str | None, *layers: tuple[Mapping[str, Any], str], faults: list[str] | None = None) -> Self:
        config = super().layered(name, *layers, faults=faults)
        if "epochs" in config.given and "total_steps" not in config.given:  # which a preset may have set
            config.total_steps = None
        return config

    def has(self, path: str) -> bool:
        return bool(self.settings()[path].marks.get("task", self.task) == self.task)

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain lists, numbers and strings in field order, without what only another task has."""
        values = super().to_dict()
        for path in self.settings():
            if not self.has(path):
                group, _, name = path.rpartition(".")
                del (values[group] if group else values)[name]
        return values

    def faults_beside(self, together: bool) -> Iterator[str]:
        """What is wrong beside each value alone."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            yield self.wrong("device", "must be auto, cpu, cuda or cuda:N")
        if self.data.name is None:
            small = " or ".join(data_names.SMALL[self.task])
            yield f"--data: say what to learn from: a folder, or {small}, which a laptop has"
        if self.epochs is None and self.total_steps is None:
            yield "--epochs: say how long the run is, in epochs or with --total-steps in updates"
        if self.sharded and (self.optimizer.name in _UNSHARDED or self.optimizer.effective().get("adapt") is not None):
            name = self.optimizer.name if self.optimizer.name in _UNSHARDED else "asgc --optimizer.adapt"
            yield f"--sharded: not with --optimizer {name}, which needs whole gradients: leave out one of them"
        slow = reference_and_cpu_only({**ASGC_DEFAULTS, **self.optimizer.effective()})
        if self.sharded and self.optimizer.name.startswith("asgc") and slow:
            yield f"--sharded: not with --optimizer {self.optimizer.name} and {slow}, which needs whole tensors"
        if self.backend == "fairseq" and self.task != "wmt14":
            yield self.wrong("backend", "only for --task wmt14")
        yield from backends.faults(self)
        for path, one in self.settings().items():
            if not self.has(path) and (path in self.given or one.get(self) != one.default):
                yield self.wrong(path, f"only --task {one.marks['task']} has this option: leave it out")
        yield from self.idle()
        yield from data_names.idle(self)
        yield from self.optimizer.faults()
        yield from self.lr_schedule.faults()


# Read whole gradients, beside those that adapt.
_UNSHARDED = {
    *("adagc", "gradient-noise", "gradient-stabilizer", "divgrad", "obgd"),
    *(name for name in optimizers.names() if optimizers.info(name).rule in LIBRARY_CLASSES),
}
