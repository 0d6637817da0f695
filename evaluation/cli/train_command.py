"""The command line of a trainer: flags made from its configuration, the layers below them, `train` and `check`."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from evaluation.cli.config_file import read_yaml
from evaluation.cli.errors import UserError, reason
from evaluation.cli.parser import Flags
from evaluation.cli.settings import Config
from evaluation.cli.values import PathText, read
from evaluation.files import to_json

C = TypeVar("C", bound=Config)
NOT_CHECKED = ("--resume", "--help", "--help-all", "--print-config", "--seeds", "--jobs")  # flags that `check` refuses
PROVENANCE = "provenance.json"  # lies beside the whole configuration of a run
SEEDS = "seeds.json"  # in a folder with the runs of several seeds (`evaluation.study.seeds`)
TOLD = ("total_steps", "game")  # options that `check` tells beside the whole configuration, where there are such


def resumed(typed: Mapping[str, Any]) -> str | None:
    """The folder that --resume means, if it is among the flags."""
    return (typed["resume"] or typed.get("run_dir")) if "resume" in typed else None


def several_seeds(typed: Mapping[str, Any]) -> bool:
    """Whether flags of `train` mean several runs."""
    folder = resumed(typed)
    return "seeds" in typed or (folder is not None and Path(folder, SEEDS).is_file())


@dataclass(frozen=True)
class TrainCommand(Generic[C]):
    """The commands `train` and `check` of a program. Later layers win: a preset, the file of --config, flags."""

    prog: str
    usage: str
    description: str
    config: type[C]  # one of its options is `run_dir`
    default_words: str  # which preset is meant where none is named
    common: Mapping[str, Sequence[str]]  # {heading: dotted paths} of what `train --help` shows; `--help-all` shows all
    headings: Mapping[str, str]  # {group: heading} on the page of all options, where it is not the group's own name
    switches: Mapping[str, str] = field(default_factory=dict)  # {flag: help} of more flags of `train` without a value
    example: str = '["--optimizer.lr", "0.001"]'  # a line for `check`

    def flags(self, config: C | None = None, everything: bool = False) -> Flags:
        """The flags of `train`, with the values of `config` as the defaults shown."""
        more = "" if everything else f" `{self.prog} train --help-all` lists every option."
        spelling = "Dashes and underscores are the same; --OPTION alone is true, --no-OPTION false"
        layers = f"{spelling}. Later layers win: preset, --config, flags.{more}"
        flags = Flags(f"{self.prog} train", f"{self.usage} [options]", self.description, epilog=layers, add_help=False)
        run = flags.section("run")
        run.add_argument("-h", "--help", action="store_true", help="show the common options")
        run.add_argument("--help-all", action="store_true", help="show all options")
        presets = f"configuration to start from: {', '.join(self.config.PRESETS)} [{self.default_words}]"
        flags.option("run", "--preset", str | None, None, presets)
        flags.option("run", "--config", PathText | None, None, "YAML file on top of the preset")
        run.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML and stop")
        where = functools.partial(read, hint=PathText)
        run.add_argument(
            "--resume", nargs="?", const="", metavar="RUN", type=where, help="go on with an interrupted run"
        )
        for flag, help_text in self.switches.items():
            run.add_argument(flag, action="store_true", help=help_text)
        flags.option("run", "--seeds", str | None, None, "several runs, one for each seed: 1-5 or 1,3,7")
        flags.option("run", "--jobs", int, 1, "runs at a time, with --seeds", allowed="[1, 1000]")
        common = {path: heading for heading, paths in self.common.items() for path in paths}
        known = self.config.settings()
        for path in dict.fromkeys((*common, *known)):
            one, group = known[path], path.rpartition(".")[0]
            heading = common.get(path) or self.headings.get(group, group)
            value = one.default if config is None else one.get(config)
            shown = path in common and (config is None or config.has(path))
            flags.option(
                heading,
                one.flag,
                one.hint,
                value,
                one.about,
                allowed=one.marks["allowed"],
                hidden=not (everything or shown),
            )
        return flags

    def layers(self, typed: Mapping[str, Any], faults: list[str] | None = None) -> C:
        """The configuration that flags mean: on top of the run's own with --resume, else of the preset and --config.

        Args:
            typed: their values, as `Flags.read` gives them.
            faults: takes a line for each wrong option in the file of --config; without it the first is raised.
        """
        file, name, resume = typed.get("config"), typed.get("preset"), typed.get("resume")
        run = typed.get("run_dir") if resume == "" else resume  # --resume alone goes on with --run-dir
        flags = {path: value for path, value in typed.items() if path in self.config.settings()}
        flags |= {"run_dir": resume} if resume else {}
        own = Path(run, "config.yaml") if run is not None and file is None and name is None else None
        if own is None and file is not None and name is None and Path(file).with_name(PROVENANCE).is_file():
            own = Path(file)  # of a run, perhaps an earlier version's: what it does not have is not a preset's
        if own is not None and own.is_file():
            config = self.config.of_run(own)
        elif own is not None and resume:
            raise UserError(f"--resume {run}: not a run folder (no config.yaml in it)")
        else:  # with --resume: perhaps killed before it was written; the flags say what it was
            values = {} if file is None else read_yaml(Path(file), "--config ")
            return self.config.layered(name, (values, str(file)), (flags, "flags"), faults=faults)
        config.update(flags, "flags")
        return config

    def read(self, argv: Sequence[str]) -> tuple[C | None, bool]:
        """The checked configuration that the arguments of `train` mean, and whether a run is to be resumed.

        The configuration is None where a page was asked for: it has been printed.

        Raises:
            UserError: the first thing that is wrong.
        """
        typed, faults = self.flags().read_all(argv)
        for fault in faults:
            raise UserError(fault)
        if "jobs" in typed and "seeds" not in typed:
            raise UserError("--jobs: how many runs at a time, with --seeds")
        config = self.layers(typed)
        if "help" in typed or "help_all" in typed:
            self.flags(config, everything="help_all" in typed).print_help()
            return None, False
        if "print_config" in typed:
            print(config.dump(comments=True), end="")
            return None, False
        if "resume" in typed and config.settings()["run_dir"].get(config) is None:
            raise UserError("--resume: say which run: --resume RUN")
        config.validate()
        return config, "resume" in typed

    def check(self, argv: Sequence[str]) -> int:
        """`check`: which command lines of `train` are right, thousands of them in one process, nothing run.

        A study checks all its runs with it before the first one starts. Reads lines from a file or standard input,
        prints one JSON line for each; 0 if all are right, else 2.
        """
        flags = Flags(
            f"{self.prog} check",
            "[FILE]",
            f"Check command lines of `{self.prog} train` without running them. FILE (default: standard input) holds "
            f"one a line, as a JSON list of its arguments: {self.example}. A JSON line answers each: "
            '"ok" and the whole "config", or all "errors".',
        )
        flags.path("file", "FILE", "lines to check [standard input]")
        general = flags.section("general")
        general.add_argument("--defaults", action="store_true", help="print what all options are without a preset")
        options = flags.read(argv)[0]
        if options.defaults:
            print(json.dumps(to_json(self.config().to_dict()), allow_nan=False))
            return 0
        file = options.file
        try:
            text = sys.stdin.read() if file in (None, "-") else Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {file}: {reason(error)}") from error
        parser, all_right = self.flags(), True
        for line in text.splitlines():
            values, errors = self._checked(line, parser)
            all_right &= not errors
            told = {name: values[name] for name in TOLD if name in values} | {"config": values}
            answer = {"ok": not errors} | ({"errors": errors} if errors else told)
            print(json.dumps(to_json(answer), allow_nan=False))
        return 0 if all_right else 2

    def _checked(self, line: str, parser: Flags) -> tuple[dict[str, Any], list[str]]:
        """The configuration that a line of arguments means, and all that is wrong with it."""
        try:
            arguments = json.loads(line)
        except ValueError:
            arguments = None
        if not isinstance(arguments, list) or not all(isinstance(argument, str) for argument in arguments):
            return {}, [f"expected a JSON list of texts, the arguments of `{self.prog} train`"]
        typed, errors = parser.read_all(arguments)
        for flag in (*NOT_CHECKED, *self.switches):
            if typed.pop(flag.lstrip("-").replace("-", "_"), None) is not None:
                errors.append(f"{flag}: not possible here")
        try:
            config = self.layers(typed, errors)
        except UserError as error:
            return {}, [*errors, str(error)]
        errors += config.faults(together=not errors)
        return config.to_dict(), errors
