"""The command line of another trainer: its configuration is all that it takes."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evaluation.cli.errors import UserError
from evaluation.cli.optimizer_group import OptimizerConfig, OptimizerGroup
from evaluation.cli.parser import Flags
from evaluation.cli.settings import Config, option
from evaluation.cli.train_command import TrainCommand


@dataclass
class DataConfig:
    """A group."""

    workers: int = option(2, "processes", "[0, 64]")
    crops: list[int] = option([224, 176], "sizes", "[1, 1024]")  # noqa: RUF009


@dataclass
class NetConfig(Config):
    """A trainer's configuration."""

    epochs: int = option(10, "epochs", "[1, 1e6]")
    warmup: int = option(5, "epochs of warm-up", "[0, 1e6]", shrinks_to=0)
    saving: int = option(1, "epochs between checkpoints", "[1, 1e6]", shrinks_to=1)
    augment: bool | None = option(None, "augment; null: as the data set asks for")
    run_dir: str | None = option(None, "run folder")
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerGroup = field(default_factory=OptimizerConfig)

    PRESETS = ("short", "long")
    LENGTH = "epochs"

    def faults_beside(self, together: bool) -> Iterator[str]:
        if together and self.warmup > self.epochs:
            yield self.wrong("warmup", f"must be at most --epochs {self.epochs}")
        yield from self.optimizer.faults()


COMMAND = TrainCommand(
    prog="asgc-net",
    usage="[--epochs N]",
    description="Train.",
    config=NetConfig,
    default_words="short",
    common={"run": ("epochs", "optimizer.name")},
    headings={},
)


@pytest.fixture(autouse=True)
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"short": {"epochs": 30}, "long": {"epochs": 90, "warmup": 30, "saving": 2}}
    monkeypatch.setattr("evaluation.cli.settings._shipped", lambda folder, name: files[name])


def test_layers_on_top_of_each_other(tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    file.write_text("warmup: 3\ndata: {crops: [8]}\noptimizer: sgd\n")
    argv = ["--config", str(file), "--optimizer.momentum", "0.9", "--data.workers=0", "--augment"]
    config, resume = COMMAND.read(argv)
    assert config is not None
    assert not resume
    assert (config.epochs, config.warmup, config.data.crops, config.data.workers) == (30, 3, [8], 0)
    assert (config.optimizer.name, config.optimizer.options(), config.augment) == ("sgd", {"momentum": 0.9}, True)
    assert NetConfig.from_dict(config.to_dict()) == config
    assert COMMAND.read(["--preset", "long"])[0] == NetConfig.preset("long") == NetConfig.preset("long", epochs=90)


@pytest.mark.parametrize(
    ("argv", "warmup", "saving", "said"),
    [
        (["--epochs", "9"], 3, 1, ["--warmup 3", "--saving 1"]),
        (["--epochs", "1"], 0, 1, ["--warmup 0", "--saving 1"]),
        (["--epochs", "9", "--warmup", "8"], 8, 1, ["--saving 1"]),
        (["--epochs", "9", "--warmup", "30", "--saving", "2"], 30, 2, []),  # given, though they are the preset's
        (["--epochs", "90"], 30, 2, []),
        (["--epochs", "900"], 30, 2, []),  # no stretching
        ([], 30, 2, []),
    ],
)
def test_schedules_of_a_preset_shrink_with_a_shorter_run(
    argv: list[str], warmup: int, saving: int, said: list[str], tmp_path: Path
) -> None:
    def of(*arguments: str) -> NetConfig:
        return COMMAND.layers(COMMAND.flags().read(arguments)[1])

    config = of("--preset", "long", *argv)
    assert (config.warmup, config.saving) == (warmup, saving)
    lengths = f"made for 90 steps, shrunk to {config.epochs}: {', '.join(said)} (given, they stay)"
    assert config.notes == ((lengths,) if said else ())
    options = {argv[i].strip("-"): int(argv[i + 1]) for i in range(0, len(argv), 2)}
    assert NetConfig.preset("long", **options) == config  # from Python
    file = tmp_path / "options.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in options.items()))
    assert of("--preset", "long", "--config", str(file)) == config
    # The whole configuration says it all: whatever reads it shrinks nothing again.
    (tmp_path / "config.yaml").write_text(config.dump())
    for again in (["--preset", "long", "--config", str(tmp_path / "config.yaml")], ["--resume", str(tmp_path)]):
        assert of(*again) == (dataclasses.replace(config, run_dir=str(tmp_path)) if "--resume" in again else config)
        assert of(*again).notes == ()


def test_a_runs_own_configuration_has_no_preset_below_it(tmp_path: Path) -> None:
    """An option that it does not have is a later version's: its default, not what a preset has made of it since."""
    (tmp_path / "config.yaml").write_text("epochs: 20\n")
    argv = ["--config", str(tmp_path / "config.yaml"), "--optimizer", "sgd"]
    assert COMMAND.layers(COMMAND.flags().read(["--preset", "long", *argv])[1]).warmup == 6
    (tmp_path / "provenance.json").touch()
    config = COMMAND.layers(COMMAND.flags().read(argv)[1])
    assert (config.epochs, config.warmup, config.optimizer.name) == (20, 5, "sgd")
    assert COMMAND.layers(COMMAND.flags().read(["--preset", "long", *argv])[1]).warmup == 6


def test_what_resume_alone_goes_on_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--resume: say which run: --resume RUN"):
        COMMAND.read(["--resume"])
    file = tmp_path / "net.yaml"
    file.write_text(f"run_dir: {tmp_path / 'run'}\n")
    config, resume = COMMAND.read(["--config", str(file), "--resume"])
    assert config is not None
    assert (config.run_dir, resume) == (str(tmp_path / "run"), True)


def test_a_run_of_another_version_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 7\ndropout: 0.1\nold: {a: 1}\ndata: {workers: 1, cache: true}\n")
    config, _ = COMMAND.read(["--resume", str(tmp_path)])
    assert config is not None
    assert (config.epochs, config.data.workers, config.warmup) == (7, 1, 5)
    assert config.run_dir == str(tmp_path)
    path.write_text("epochs: 7\nwarmup: -3\ndata: {workers: 1}\n")
    line = r"config.yaml:2: warmup -3: must be at least 0 .*; the version that trained it, named in .*provenance.json"
    with pytest.raises(UserError, match=line):
        COMMAND.read(["--resume", str(tmp_path)])
    assert NetConfig.of_run(path, needed=("data",)).data.workers == 1  # what the rest is does not matter
    path.write_text("epochs: 7\ndata: {workers: -1}\n")
    with pytest.raises(UserError, match=r"workers -1: must be at least 0"):
        NetConfig.of_run(path, needed=("data",))


def test_its_faults_are_found_all_at_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        ["--epochs", "9"],
        ["--epochs", "2", "--warmup", "5"],
        ["--data.crop", "3", "--data.workers", "-1", "--optimizer", "adma"],
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(json.dumps, lines))))
    assert COMMAND.check([]) == 2
    right, together, alone = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert right["config"]["epochs"] == 9
    assert together["errors"] == ["--warmup 5: must be at most --epochs 2"]
    assert alone["errors"] == [
        "unknown option --data.crop; did you mean --data.crops?",
        "--data.workers -1: must be at least 0 and at most 64",
        "unknown optimizer 'adma'; did you mean 'adam'?",
    ]
    with pytest.raises(UserError, match=r"unknown option --data.crop; did you mean --data.crops\?"):
        COMMAND.read(lines[2])


def test_help_is_short_and_help_all_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.read(["--help", "--epochs", "7"]) == (None, False)
    page = capsys.readouterr().out
    assert "--epochs N        epochs [7]" in page
    assert "--data.workers" not in page
    COMMAND.read(["--help-all"])
    page = capsys.readouterr().out
    assert all(one.flag.removesuffix(".name") in page for one in NetConfig.settings().values())


def test_dumps_read_back_with_comments_and_without(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    COMMAND.read(["--print-config", "--data.crops", "1,2"])
    text = capsys.readouterr().out
    assert "  crops: [1, 2]                   # sizes\n" in text
    (tmp_path / "again.yaml").write_text(text)
    again, _ = COMMAND.read(["--config", str(tmp_path / "again.yaml")])
    assert again is not None
    assert again.dump() == "".join(f"{line.partition('  #')[0].rstrip()}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["run", "--jobs", "2", "--dry-run"], {"study": "run", "jobs": 2, "dry_run": True}),
        (["--dry_run", "run", "--share=-1e-4"], {"study": "run", "share": -1e-4, "dry_run": True}),
        (["--share", "-inf"], {"share": float("-inf")}),
        (["-"], {"study": "-"}),
    ],
)
def test_flags_switches_and_positionals(argv: list[str], expected: dict[str, object]) -> None:
    namespace, typed = flags().read(argv)
    assert typed == expected
    assert vars(namespace) == {"help": False, "study": None, "jobs": 1, "share": 0.5, "dry_run": False} | expected


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--dry-run=yes"], "--dry-run yes: takes no value"),
        (["--jobs"], "--jobs: expected a value"),
        (["--jobs", "--dry-run"], "--jobs: expected a value"),
        (["--jobs", "x", "--shar"], "--jobs x: must be a whole number"),
        (["a", "b"], "unexpected argument 'b': options start with --"),
    ],
)
def test_the_first_fault_of_flags(argv: list[str], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        flags().read(argv)
    assert str(caught.value) == expected


def flags() -> Flags:
    made = Flags("asgc-eval study", "STUDY", "Run.")
    general = made.section("general")
    general.add_argument("study", metavar="STUDY", nargs="?", help="a study")
    general.add_argument("--dry-run", action="store_true", help="run nothing")
    made.option("general", "--jobs", int, 1, "runs at a time", allowed="[1, 8]")
    made.option("general", "--share", float, 0.5, "share")
    return made


def test_a_switch_is_put_off_by_its_own_name(tmp_path: Path) -> None:
    flags = COMMAND.flags()
    assert flags.read_all(["--no-augment", "--augment=0"]) == ({"augment": False}, [])
    assert flags.read_all(["--no_augment"]) == ({"augment": False}, [])
    _, faults = flags.read_all(["--no-augment=1", "--no-epochs"])
    assert "--no-augment 1: takes no value" in faults
    assert any(fault.startswith("unknown option --no-epochs") for fault in faults)


def test_paths_of_flags_and_files_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("epochs: 3\n")
    values, faults = COMMAND.flags().read_all(["--config=~/mine.yaml", "--resume", "$HOME/run"])
    assert (values, faults) == ({"config": f"{tmp_path}/mine.yaml", "resume": f"{tmp_path}/run"}, [])
    _, faults = COMMAND.flags().read_all([f"--config={'x' * 300}"])
    assert "is too long for a name" in faults[0]
