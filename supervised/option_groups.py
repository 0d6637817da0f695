"""The groups of `supervised.config.TrainConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaluation.cli.settings import option
from evaluation.cli.values import PathText

IMAGES, TEXT = "imagenet", "wmt14"


@dataclass
class DataConfig:
    """Training and validation data by its name."""

    name: str | None = option(
        None,
        "imagenet: a folder (ImageFolder or torchvision's layout), hf:NAME of Hugging Face, fashion-mnist, digits; "
        "wmt14: wmt14 (Hugging Face's), a folder of prepared or plain text, dict-ende; "
        "streams: gaussian, heavy-tailed, bursts, jumps, drifting",
    )
    root: PathText | None = option(None, "where data of that name lies, or is prepared; null: where it usually is")
    label_noise: float = option(
        0.0, "share of the training labels that are drawn anew, the same in all runs", "[0, 1]", task=IMAGES
    )
    train_size: int | None = option(None, "training samples, the first of a fixed order; null: all", "[1, 1e12]")
    held_out: int | None = option(
        None,
        "fashion-mnist, digits: so many training images, the last of a fixed order, in the place of the validation "
        "images: to choose by without a look at those; null: none",
        "[1, 1e9]",
        task=IMAGES,
    )
    resolution: int = option(224, "pixels of the training images' sides", "[8, 4096]", task=IMAGES)
    start_resolution: int | None = option(
        None,
        "pixels at the start of the run, from where it rises to --data.resolution; null: the same",
        "[8, 4096]",
        task=IMAGES,
    )
    eval_resolution: int | None = option(
        None, "pixels of the validation images' sides; null: --data.resolution", "[8, 4096]", task=IMAGES
    )
    resize: int | None = option(
        None, "pixels of their shorter side before the middle is cut out; null: 8/7 of it", "[8, 4096]", task=IMAGES
    )
    augment: Literal["none", "crop-flip", "trivial"] = option(
        "crop-flip",
        "of training images: random crops and flips, and trivial augmentation besides (arXiv 2103.10158)",
        task=IMAGES,
    )
    random_erasing: float = option(
        0.0, "share of training images of which a random part is erased (1708.04896)", "[0, 1]", task=IMAGES
    )
    source: str = option("en", "the language that is translated", task=TEXT)
    target: str = option("de", "the language that it is translated into", task=TEXT)
    vocabulary: int | None = option(
        None,
        "subwords, of both languages together; null: as many as the text was prepared with, else 4,000 of dict-ende "
        "and 32,000 of others",
        "[300, 1e6]",
        task=TEXT,
    )
    max_length: int = option(256, "subwords of a sentence; pairs with longer ones are left out", "[4, 4096]", task=TEXT)
    prepared: PathText = option(
        "data", "folder below which text of a name, or of plain files, is prepared when it is first used", task=TEXT
    )
    bad_share: float = option(
        0.01, "share of images or pairs that may be broken: they are skipped and named; more is an error", "[0, 1]"
    )
    workers: int | None = option(
        None, "processes that read and augment images; null: as many as cores, none for data in memory", "[0, 1024]"
    )


@dataclass
class ModelConfig:
    """The model by its name; options of another task's models do nothing."""

    name: str | None = option(
        None,
        "imagenet: small-cnn or a classifier of torchvision (resnet50, vit_b_16, ...); wmt14: a size of the "
        "Transformer (tiny, small, base, big); streams: linear or mlp",
    )
    dropout: float | None = option(None, "wmt14: share of dropped units; null: the size's own", "[0, 1)", task=TEXT)
    pre_norm: bool | None = option(
        None, "wmt14: layer normalization before each part, not after it; null: as the size has it", task=TEXT
    )


@dataclass
class EvaluationConfig:
    """Scheduled evaluations, in evaluation mode and without augmentation."""

    interval: int | None = option(None, "updates between two evaluations; null: an epoch", "[1, 1e12]")
    batch_size: int | None = option(
        None, "images, or tokens, of a batch; null: what a device takes in training", "[1, 1e6]"
    )
    train_subset: int = option(
        5_000, "training samples whose score is measured as well, for the generalization gap; 0: none", "[0, 1e9]"
    )
    metric: Literal["bleu", "accuracy", "likelihood"] = option(
        "bleu",
        "score of an evaluation: BLEU of translations, share of right next subwords, or their mean log-likelihood",
        task=TEXT,
    )
    split: Literal["valid", "test"] = option(
        "valid", "sentences that are scored; test only where nothing was chosen by them", task=TEXT
    )
    sentences: int | None = option(
        None, "sentences of an evaluation, the first of a fixed order; null: all", "[1, 1e9]", task=TEXT
    )
    beam: int = option(4, "width of the beam search", "[1, 1000]", task=TEXT)
    length_penalty: float = option(0.6, "exponent of the beam search's length penalty", "[0, 10]", task=TEXT)
    target: float | None = option(None, "score for time to threshold; null: the task's own, if any", "(-inf, inf)")
    last_k: int = option(5, "evaluations that final score and stability are taken over", "[1, 10000]")


@dataclass
class GradientsConfig:
    """Recorded gradients: parquet files in the run folder. Learning is the same."""

    enabled: bool = option(True, "record gradients")
    interval: int = option(1009, "updates from record to record", "[1, 1e9]")
