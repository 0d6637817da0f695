"""Sentence pairs out of the German-English dictionary of Debian's package `trans-de-en` (Frank Richter, TU Chemnitz).

A line is `German :: English`. Both sides have sub-entries between `|` that correspond to each other, each with
alternatives between `;`, and marks: `{m}` grammar, `[cook.]` field, `(explanation)`, `<other spelling>`, `/ABBR./`,
`~see`, `word/other word`. What is left after cleaning are phrases and sentences of everyday language; a pair in which
something does not fit is dropped.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

LICENCE = "GPL-2+ (Frank Richter, TU Chemnitz; package trans-de-en)"
CLEANING = 1  # counts up when other pairs come out of the same dictionary
FEWEST_WORDS, FEWEST_OF_LONGER, MOST_WORDS = 2, 3, 30  # of each sentence; of the longer one of a pair; of each
MOST_TIMES_LONGER = 3  # words of one side to those of the other: beyond, they say different things
HELD_OUT = 0.017  # share of connected groups, for valid and test each
LARGEST_HELD_OUT = 12  # pairs of a group in valid or test: larger ones would make these sets one-sided


class Pair(NamedTuple):
    """A sentence in both languages and the number of its line in the dictionary, from 1."""

    de: str
    en: str
    line: int


# Innermost brackets; what is around them is removed in the next round.
_BRACKETS = re.compile(r"\{[^{}]*\}|\[[^][]*\]|\([^()]*\)|<[^<>]*>")
_ABBREVIATION = re.compile(r"(?<!\S)/[^/; ]{1,20}(?: ?[^/; ]{1,8}){0,4}/(?![^\s;,.!?])")
_SEE = re.compile(r"~ ?[\w-]+")
_ALIKE = (  # words between slashes of which any will do; of others it is not said how much of the text they replace
    r"ich|er|sie|es|du|wir|ihr|etw\.|jd\.|jdm\.|jdn\.|jds\.|I|he|she|it|you|we|they|sb\.|sth\.",
    r"der|die|das|dem|den|des|ein|eine|einen|einem|einer|a|an|the",
    r"mein|meine|dein|deine|sein|seine|ihr|ihre|my|your|his|her|its|our",
    r"hat|hatte|ist|war|has|had|is|was",
)
_ALTERNATIVE_WORDS = re.compile(
    rf"(?<![\w/'.-])(?:{'|'.join(rf'(?:{one})(?:/(?:{one}))+' for one in _ALIKE)})(?![\w/'-])", re.IGNORECASE
)
_SPACE_BEFORE = re.compile(r"\s+([,.!?:])")
_NOT_TEXT = re.compile(r"""[][{}()<>|~\\#_=*+^/@…]|\.\.|::|^[-\u2013,.:!?]|[,:\u2013-]$|\s-\s?$|(?<!\w)-\w|\w-(?=\s)""")
_QUOTES = str.maketrans(  # curly and low quotes and accents that stand for them; \x92 is Windows' apostrophe
    {**dict.fromkeys("\u2019\u2018\u201a`\xb4\x92", "'"), **dict.fromkeys("\u201e\u201c\u201d", '"'), "\xa0": " "}
)
_SPELLED_OUT = {
    "de": {"etw": "etwas", "jd": "jemand", "jdm": "jemandem", "jdn": "jemanden", "jds": "jemandes", "jmd": "jemand"},
    "en": {"sb": "somebody", "sth": "something", "sbd": "somebody"},
}
_SHORT = {language: re.compile(rf"\b({'|'.join(words)})\.") for language, words in _SPELLED_OUT.items()}
_NO_LETTERS = re.compile(r"[\W_]+")
QUOTES = "'\""
NO_WORDS = frozenset("\u2013-/.,:!?&+=")


def without_brackets(text: str) -> str:
    """`text` without what is in brackets, and without the brackets."""
    removed = 1
    while removed:  # innermost first
        text, removed = _BRACKETS.subn(" ", text)
    return text


def clean(text: str, language: str) -> str | None:
    """An alternative of a sub-entry, without brackets, as plain text; None where something is left that is no text.

    >>> clean("jdn./etw. loben /l./", "de")
    'jemanden loben'
    """
    if "/" in text or "~" in text:
        text = _SEE.sub(" ", _ABBREVIATION.sub(" ", text))
        text = _ALTERNATIVE_WORDS.sub(lambda found: found[0].partition("/")[0], text)
    if "." in text:
        words = _SPELLED_OUT[language]
        text = _SHORT[language].sub(lambda found: words[found[1]], text)
    text = _SPACE_BEFORE.sub(r"\1", " ".join(text.translate(_QUOTES).split()))
    if text[:1] in QUOTES and text[-1:] == text[:1] and text.count(text[:1]) == 2:
        text = text[1:-1].strip()
    return None if _NOT_TEXT.search(text) or text.count('"') % 2 else text


def parse(lines: Iterable[str]) -> list[Pair]:
    """All pairs of a dictionary, each once, in its order; those in which something does not fit are left out."""
    found: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, start=1):
        sides = line.split(" :: ")
        if len(sides) != 2 or line.startswith("#"):
            continue
        german, english = (without_brackets(side).split("|") for side in sides)
        if len(german) != len(english):
            continue
        for de_entry, en_entry in zip(german, english, strict=True):
            # The alternatives of a sub-entry mean the same: each may stand beside any of the other side.
            for de_text, en_text in zip(de_entry.split(";"), en_entry.split(";"), strict=False):
                if " " not in de_text.strip() or " " not in en_text.strip():
                    continue
                de, en = clean(de_text, "de"), clean(en_text, "en")
                if de is not None and en is not None and _sizes_fit(_words(de), _words(en)):
                    found.setdefault((de, en), number)
    return [Pair(de, en, number) for (de, en), number in found.items()]


def _words(text: str) -> int:
    return len([word for word in text.split() if word not in NO_WORDS])


def _sizes_fit(one: int, other: int) -> bool:
    fewer, more = min(one, other), max(one, other)
    return fewer >= FEWEST_WORDS and FEWEST_OF_LONGER <= more <= min(MOST_WORDS, MOST_TIMES_LONGER * fewer)


def normalized(text: str) -> str:
    """What counts as the same sentence in a split without leakage: letters and digits only, case and form folded."""
    return _NO_LETTERS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def split(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """The pairs of "train", "valid" and "test", in the dictionary's order.

    Pairs of one line, and pairs that share a sentence (as `normalized`) in either language, also over other pairs, are
    a group and stay together: no sentence of valid or test occurs in another split. Where a group goes is a hash of its
    first sentence in alphabetical order, whatever the machine and the order of lines; large groups go to train.
    """
    keys = [(f"line {pair.line}", f"de {normalized(pair.de)}", f"en {normalized(pair.en)}") for pair in pairs]
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        top = key
        while (above := parent.setdefault(top, top)) != top:
            top = above
        while key != top:  # shorter ways for the next time
            parent[key], key = top, parent[key]
        return top

    for line, *sentences in keys:
        for sentence in sentences:
            parent[root(sentence)] = root(line)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, (line, *_) in enumerate(keys):
        groups[root(line)].append(index)
    names = ["train"] * len(pairs)
    for group in groups.values():
        name = _split_of(min(keys[index][1] for index in group)) if len(group) <= LARGEST_HELD_OUT else "train"
        for index in group:
            names[index] = name
    return {
        wanted: [pair for pair, name in zip(pairs, names, strict=True) if name == wanted]
        for wanted in ("train", "valid", "test")
    }


def _split_of(sentence: str) -> str:
    share = int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=8).digest(), "big") / 2**64
    return "valid" if share < HELD_OUT else "test" if share < 2 * HELD_OUT else "train"
