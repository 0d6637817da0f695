"""The command line of a trainer: flags made from its configuration, and the layers of the configuration below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from evaluation.cli.config_file import read_yaml
from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.settings import Config, preset, settings

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class TrainCommand(Generic[C]):
    """`PROGRAM train`. Later layers win: a preset, the file of --config, flags.

    Attributes:
        prog: the program.
        usage: what stands behind `train` on the usage line, before "[options]".
        config: class of the configuration; one of its options is `run_dir`.
        folder: of the presets, in `configs/`.
        presets: their names.
        default_preset: mapping of what the file and the flags say -> the preset where none is named; its names in words.
        common: {heading: dotted paths} of what `train --help` shows; `train --help-all` shows every option.
        headings: {group: heading} on the page of all options, where it is not the group's own name.
        aliases: {flag: how it is shown}.
    """

    prog: str
    usage: str
    description: str
    config: type[C]
    folder: str
    presets: tuple[str, ...]
    default_preset: Callable[[Mapping[str, Any]], str]
    defaults_in_words: str
    common: Mapping[str, Sequence[str]]
    headings: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def flags(self, config: C | None = None, everything: bool = False) -> Flags:
        """The flags, with the values of `config` as the defaults shown."""
        shown = self.config() if config is None else config
        flags = Flags(
            f"{self.prog} train",
            f"{self.usage} [options]",
            self.description,
            epilog="Dashes and underscores are the same. Later layers win: preset, --config, flags. "
            + ("" if everything else f"`{self.prog} train --help-all` lists every option."),
            aliases=dict(self.aliases),
            add_help=False,
        )
        run = flags.section("run")
        run.add_argument("-h", "--help", action="store_true", help="show the common options")
        run.add_argument("--help-all", action="store_true", help="show all options")
        presets = f"configuration to start from: {', '.join(self.presets)} [{self.defaults_in_words}]"
        flags.option("run", "--preset", str | None, None, presets)
        flags.option("run", "--config", str | None, None, "YAML file on top of the preset")
        run.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML and stop")
        run.add_argument("--resume", nargs="?", const="", metavar="RUN", help="go on with an interrupted run")
        common = {path: heading for heading, paths in self.common.items() for path in paths}
        options = settings(self.config)
        for path in (*common, *(path for path in options if path not in common)):
            one, group = options[path], path.rpartition(".")[0]
            flags.option(
                common.get(path) or self.headings.get(group, group),
                one.flag,
                one.hint,
                one.get(shown),
                one.about,
                read=one.read,
                hidden=not everything and path not in common,
            )
        return flags

    def layers(self, typed: Mapping[str, Any], faults: list[str] | None = None) -> C:
        """The configuration that flags mean: on top of the run's own with --resume, else of the preset and --config.

        Args:
            typed: their values, as `Flags.read` gives them.
            faults: takes a line for each wrong option in the file of --config; without it the first is raised.
        """
        resume, named = typed.get("resume"), typed.get("preset")
        run = typed.get("run_dir") if resume == "" else resume
        config = self.config()
        if run is not None and named is None and typed.get("config") is None:
            path = Path(run) / "config.yaml"
            if path.is_file():
                config.update(read_yaml(path), str(path))
            elif resume:
                raise UserError(f"--resume {run}: not a run folder (no config.yaml in it)")
            else:  # perhaps killed before it was written: the flags say what it was
                self._start(config, self.default_preset(typed))
        else:
            file = {} if typed.get("config") is None else read_yaml(Path(typed["config"]), "--config")
            self._start(config, named or self.default_preset({**file, **typed}))
            config.update(file, str(typed.get("config")), faults)
        options = {path: value for path, value in typed.items() if path in settings(self.config)}
        config.update(options | ({"run_dir": resume} if resume else {}), "flags")
        return config

    def _start(self, config: C, name: str) -> None:
        config.update(preset(self.folder, name, self.presets), name)

    def read(self, argv: Sequence[str]) -> tuple[C | None, bool]:
        """The checked configuration that a command line means, and whether a run is to be resumed.

        The configuration is None where a page was asked for: it has been printed.

        Raises:
            UserError: the first thing that is wrong.
        """
        _, typed = self.flags().read(argv)
        config = self.layers(typed)
        if "help" in typed or "help_all" in typed:
            self.flags(config, everything="help_all" in typed).print_help()
            return None, False
        if "print_config" in typed:
            print(config.dump(comments=True), end="")
            return None, False
        if "resume" in typed and config.run_dir is None:  # type: ignore[attr-defined]
            raise UserError("--resume: say which run: --resume RUN")
        config.validate()
        return config, "resume" in typed
