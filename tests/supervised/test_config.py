"""The presets of `asgc-sup`, and which options belong to which task."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.cli.config_file import SHIPPED, read_yaml
from evaluation.cli.errors import UserError
from evaluation.study.entry import flatten
from supervised.config import TrainConfig

WITHOUT_DATA = ("imagenet", "imagenet-fast")  # every user has it somewhere else


@pytest.mark.parametrize("name", TrainConfig.PRESETS)
def test_presets_are_valid_and_survive_a_dump(name: str, tmp_path: Path) -> None:
    config = TrainConfig.preset(name, **({"data": "FOLDER"} if name in WITHOUT_DATA else {}))
    config.validate()
    for comments in (False, True):
        path = tmp_path / "config.yaml"
        path.write_text(config.dump(comments))
        again = TrainConfig()
        again.update(read_yaml(path), "file")
        assert again == config
    assert TrainConfig.preset(config.data.name if name in ("digits", "dict-ende", "fashion-mnist") else name).task == (
        "streams" if name == "streams" else "wmt14" if name.startswith(("wmt14", "dict")) else "imagenet"
    )


@pytest.mark.parametrize(("name", "width", "updates"), [("wmt14", 512, 100_000), ("wmt14-big", 1024, 300_000)])
def test_translation_is_trained_as_in_the_paper(name: str, width: int, updates: int) -> None:
    """Vaswani et al. (2017), section 5.3: the rate is width^-0.5 min(step^-0.5, step warmup^-1.5), warmup 4000."""
    config = TrainConfig.preset(name)
    assert (config.lr_schedule.name, config.lr_schedule.warmup) == ("inverse-sqrt", 4000)
    assert config.optimizer.lr == pytest.approx((width * 4000) ** -0.5, rel=0.01)
    assert config.optimizer.options() == {"betas": (0.9, 0.98), "eps": 1e-9}
    assert (config.total_steps, config.batch_size, config.label_smoothing) == (updates, 25_000, 0.1)
    assert (config.evaluation.beam, config.evaluation.length_penalty) == (4, 0.6)


def test_epochs_that_are_given_count_whatever_updates_a_preset_has() -> None:
    config = TrainConfig.preset("wmt14", epochs=3)
    assert (config.epochs, config.total_steps) == (3, None)
    both = TrainConfig.preset("wmt14", epochs=3, total_steps=5)
    assert (both.epochs, both.total_steps) == (3, 5)
    assert TrainConfig.preset("wmt14").total_steps == 100_000


def test_data_chooses_the_preset_where_none_is_named() -> None:
    assert TrainConfig.default_preset({"data.name": "dict-ende"}) == "dict-ende"
    assert TrainConfig.default_preset({"data": {"name": "digits"}, "task": "imagenet"}) == "digits"
    assert TrainConfig.default_preset({"data": "corpus", "task": "wmt14"}) == "wmt14"
    assert TrainConfig.default_preset({"data.name": "photos"}) == "imagenet"


def test_a_configuration_holds_the_options_of_its_task_alone() -> None:
    images, text = TrainConfig.preset("digits").to_dict(), TrainConfig.preset("dict-ende").to_dict()
    assert "label_noise" in images["data"]
    assert "beam" in text["evaluation"]
    assert not {"beam", "metric"} & set(images["evaluation"])
    assert not {"label_noise", "augment", "resolution"} & set(text["data"])
    assert "channels_last" not in text
    with pytest.raises(UserError, match="beam 3: only --task wmt14 has this option"):
        TrainConfig.preset("digits", evaluation={"beam": 3}).validate()


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place with folders of each kind, as far as their names and first files say."""
    monkeypatch.chdir(tmp_path)
    for name in ("prepared/info.json", "saved/dataset_dict.json", "plain/train.en", "photos/train/cat/1.png"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize(
    ("task", "data", "options", "why"),
    [
        ("imagenet", "digits", ("resize", "bad_share", "root"), "which comes with scikit-learn and is held in memory"),
        ("imagenet", "fashion-mnist", ("resize", "bad_share"), "which is held in memory"),
        ("imagenet", "hf:saved", ("root",), "a folder itself"),
        ("wmt14", "prepared", ("root", "prepared", "max_length", "bad_share"), "which is prepared already"),
    ],
)
def test_options_that_cannot_act_on_the_data_are_refused(
    task: str, data: str, options: tuple[str, ...], why: str
) -> None:
    given = {name: VALUES[name] for name in options}
    config = TrainConfig.preset(task=task, data={"name": data, **given})
    assert list(config.faults()) == [
        f"--data.{name.replace('_', '-')} {value}: has no effect on {data}, {why}: leave it out"
        for name, value in given.items()
    ]
    # What nobody gave is no fault: of a run folder, or the default.
    assert list(TrainConfig.from_dict(config.to_dict()).faults()) == []
    assert list(TrainConfig.preset(task=task, data={"name": data, "bad_share": 0.01}).faults()) == []


VALUES = {"resize": 40, "bad_share": 0.2, "root": "there", "prepared": "texts", "max_length": 100}


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize(
    ("task", "data", "options"),
    [
        ("imagenet", "photos", ("resize", "bad_share", "root")),
        ("imagenet", "saved", ("resize", "bad_share", "root")),
        ("imagenet", "hf:ILSVRC/imagenet-1k", ("resize", "bad_share", "root")),
        ("imagenet", "fashion-mnist", ("root",)),
        ("wmt14", "dict-ende", ("root", "prepared", "max_length", "bad_share")),
        ("wmt14", "plain", ("prepared", "max_length", "bad_share")),
    ],
)
def test_options_that_act_on_the_data_are_taken(task: str, data: str, options: tuple[str, ...]) -> None:
    given = {name: VALUES[name] for name in options}
    TrainConfig.preset(task=task, data={"name": data, **given}).validate()


def test_the_published_study_does_not_follow_the_preset_of_its_data() -> None:
    """`results/supervised` was made with these; presets may get better."""
    study = read_yaml(SHIPPED / "studies" / "supervised.yaml", "the study ", ())
    options = flatten(study["options"]) | flatten(study["tasks"]["translation"])
    config = TrainConfig.layered(None, ({**options, "optimizer.name": "adam"}, "study"))
    assert config.model.dropout is None
    assert (config.model.name, config.model.pre_norm, config.label_smoothing) == ("tiny", True, 0.1)
    assert (config.batch_size, config.total_steps, config.lr_schedule.warmup) == (200, 120, 12)
    assert config.optimizer.options()["betas"] == (0.9, 0.98)
