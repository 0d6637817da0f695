"""`asgc-sup data`: prepare text for translation, and say what prepared text holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from evaluation.cli.errors import UserError, main_guard
from evaluation.cli.parser import Command, Flags, dispatch
from evaluation.cli.values import PathText
from evaluation.cores import usable_cores

ROOT = "data"  # where a corpus is prepared unless a folder is named
EXAMPLES = 3

USAGE = """\
asgc-sup data: text for translation, prepared once

  asgc-sup data prepare --data dict-ende   learn subwords, write token files; goes on where it was stopped
  asgc-sup data info FOLDER                what a prepared folder holds

  asgc-sup data COMMAND --help             options of a command
"""


def data_command(argv: list[str]) -> int:
    """`asgc-sup data`: run the command that the first argument names."""
    commands: dict[str, Command | str] = {"prepare": prepare_command, "info": info_command}
    return dispatch(argv, commands, USAGE, group="data")


def prepare_command(argv: list[str]) -> int:
    """`asgc-sup data prepare`: from a corpus to a folder of token files."""
    from supervised.text.prepare import MAX_LENGTH, SKIP_LIMIT, folder_below, prepare

    what = (
        "Learn a joint vocabulary of subwords (sentencepiece BPE) and write memory-mapped token files. Run again, it "
        "goes on where it was stopped, in whatever way; the files are the same for any number of processes."
    )
    flags = Flags("asgc-sup data prepare", "--data NAME|PATH [options]", what)
    data = "dict-ende, wmt14, or the path of text: a folder with train.en, train.de, valid.*, test.* (.gz), or a prefix"
    flags.option("data", "--data", PathText | None, None, data)
    where = "where the data of a name is: the dictionary's file, a saved Hugging Face dataset; null: in its usual place"
    flags.option("data", "--path", PathText | None, None, where)
    flags.option("data", "--source", str, "en", "language to translate from")
    flags.option("data", "--target", str, "de", "language to translate into")
    flags.option("data", "--skip-limit", float, SKIP_LIMIT, "share of broken pairs that are skipped", allowed="[0, 1]")
    flags.option("files", "--out", PathText | None, None, f"folder to fill; null: {ROOT}/ and a name that fits")
    size = "subwords, bytes and special ones included; null: 4000 for dict-ende, else 32000"
    flags.option("files", "--vocab-size", int | None, None, size, allowed="[300, 1000000]")
    longest = "most subwords of either side of a training pair"
    flags.option("files", "--max-length", int, MAX_LENGTH, longest, allowed="[1, 100000]")
    count = "processes that encode; null: one for each core"
    flags.option("files", "--processes", int | None, None, count, allowed="[1, 1024]")
    options, _ = flags.read(argv)
    if options.data is None:
        raise UserError("say which text: asgc-sup data prepare --data dict-ende (or wmt14, or a path)")

    from supervised.text.corpora import open_corpus
    from supervised.text.progress import make_progress

    corpus = open_corpus(options.data, path=options.path, source=options.source, target=options.target)
    folder = Path(options.out) if options.out else folder_below(ROOT, corpus, options.vocab_size)
    info = prepare(
        corpus,
        folder,
        vocab_size=options.vocab_size,
        max_length=options.max_length,
        processes=options.processes or usable_cores(),
        skip_limit=options.skip_limit,
        progress=make_progress(),
    )
    print("\n".join(describe(folder, info)))
    return 0


def info_command(argv: list[str]) -> int:
    """`asgc-sup data info`: what a prepared folder holds."""
    flags = Flags("asgc-sup data info", "FOLDER", "Say what prepared text holds: pairs, subwords, licence, examples.")
    flags.path("folder", "FOLDER", "folder of `asgc-sup data prepare`")
    options, _ = flags.read(argv)
    if options.folder is None:
        raise UserError("say which folder: asgc-sup data info FOLDER")

    from supervised.text.token_files import read_info

    folder = Path(options.folder)
    info = read_info(folder)
    print("\n".join([*describe(folder, info), *examples(folder, info)]))
    return 0


def describe(folder: Path, info: dict[str, Any]) -> list[str]:
    """Lines about prepared text: corpus, vocabulary, counts, what was left out and why."""
    vocabulary = info["vocabulary"]
    lines = [
        f"{folder}: {info['corpus']}, {info['source']} to {info['target']}",
        f"licence: {info['licence'] or 'not known'}",
        f"vocabulary: {vocabulary['size']:,} subwords, sha256 {vocabulary['digest'][:16]}",
    ]
    for split, counts in info["splits"].items():
        tokens = f"{counts['source_tokens']:,} + {counts['target_tokens']:,} tokens"
        too_long = f", {counts['too_long']:,} too long" if counts["too_long"] else ""
        lines.append(f"{split}: {counts['pairs']:,} pairs, {tokens}{too_long}")
        if counts["skipped"]:
            reasons = ", ".join(f"{count:,} {why}" for why, count in counts["skipped"].items())
            first = ", ".join(f"{info['rows_are']} {number} ({why})" for number, why in counts["first_skipped"])
            lines.append(f"  skipped: {reasons}; first {first}")
    return lines


def examples(folder: Path, info: dict[str, Any]) -> list[str]:
    """Lines with some pairs of the validation set, as text and as subwords."""
    from supervised.text.token_files import TokenPairs, read_vocabulary

    pairs, subwords = TokenPairs(folder, "valid"), read_vocabulary(folder, info)
    lines = []
    for index in range(0, len(pairs), max(1, len(pairs) // EXAMPLES))[:EXAMPLES]:
        lines += ["", *(f"{info[side]}: {texts[index]}" for side, texts in pairs.texts._asdict().items())]
        lines += [" ".join(subwords.pieces(tokens)) for tokens in (pairs.source(index), pairs.target(index))]
    return lines


if __name__ == "__main__":
    sys.exit(main_guard(data_command)(sys.argv[1:]))
