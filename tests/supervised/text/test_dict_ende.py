"""The dictionary's pairs: what is left of its markup, and that no sentence is in two splits."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.text import dict_ende
from supervised.text.corpora import DICTIONARIES
from supervised.text.dict_ende import Pair, clean, normalized, parse, split, without_brackets
from tests.supervised.text.written import dictionary


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("de", "jdn./etw. (laut) loben {vt} [ugs.]", "jemanden loben"),
        ("en", "to praise sb./sth. [coll.] <praize>", "to praise somebody"),
        ("en", "sb.\u2019s (very (own)) luck", "somebody's luck"),
        ("de", "ich/er/sie verdummte (etw.; jdn.)", "ich verdummte"),
        ("de", "Er/Sie hat/hatte das Haus", "Er hat das Haus"),
        ("de", "der Tunnelbohrer /TBM/ [constr.]", "der Tunnelbohrer"),
        ("de", "ohne Gewähr /o. G./", "ohne Gewähr"),
        ("de", "„Der Prozess ist zu Ende“ (Werktitel)", "Der Prozess ist zu Ende"),
        ("de", "Er sagte: „Komm !“", 'Er sagte: "Komm!"'),
        ("de", "Reise ~Fahrt durch das Land", "Reise durch das Land"),
        ("en", "to cover up <> sth.", "to cover up something"),
        ("en", "I don\u2019t think so.", "I don't think so."),
        ("de", "mit 80 km/h fahren", None),  # what a slash means is not known
        ("en", "to perform/exercise one\u2019s functions", None),
        ("de", "jdn./ein Tier zerfleischen", None),
        ("de", "Sobald / Sowie es die Umstände erlauben", None),
        ("de", "unter der Annahme, dass …", None),
        ("de", "ein- und ausgehen", None),
        ("en", "two plus two = four", None),
        ("de", "eine offene Klammer (nie geschlossen", None),
        ("en", 'the word "perhaps is said', None),
    ],
)
def test_what_is_left_of_markup(language: str, text: str, expected: str | None) -> None:
    assert clean(without_brackets(text), language) == expected


def test_which_pairs_a_line_gives() -> None:
    lines = [
        "# Copyright (c) :: Frank Richter",
        "Hund {m} | ein großer Hund | ein Hund, der bellt {m} [zool.; ugs.] :: dog | a big dog | a dog that barks\n",
        "im Haus sein; zu Hause sein (z. B. abends; nachts) {v} :: to be in; to be at home; to be inside\n",
        "ein großer Hund [ugs.] :: a big dog\n",  # again
        "drei Teile hier | zwei :: three parts here\n",  # other counts
        "Haus der Tür :: a :: b c d\n",
        "kein Doppelpunkt darin\n",
        "wir gehen :: " + " ".join(["we"] * 7) + "\n",  # more than three times as long
        " ".join(["wort"] * 31) + " :: " + " ".join(["word"] * 30) + "\n",
        " ".join(["wort"] * 30) + " :: " + " ".join(["word"] * 30) + "\n",
        "zwei Wörter :: two words\n",
        "nach Hause :: to go home\n",
    ]
    assert parse(lines) == [
        Pair("ein großer Hund", "a big dog", 2),
        Pair("ein Hund, der bellt", "a dog that barks", 2),
        Pair("im Haus sein", "to be in", 3),
        Pair("zu Hause sein", "to be at home", 3),
        Pair(" ".join(["wort"] * 30), " ".join(["word"] * 30), 10),
        Pair("nach Hause", "to go home", 12),
    ]


def leaks(splits: dict[str, list[Pair]]) -> list[str]:
    """Sentences, and lines of the dictionary, that are in two splits."""
    held = {
        name: {("de", normalized(p.de)) for p in some}
        | {("en", normalized(p.en)) for p in some}
        | {p.line for p in some}
        for name, some in splits.items()
    }
    return [str(one) for a, b in combinations(held, 2) for one in held[a] & held[b]]


sentences = st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from(["", "!", " ?"]), st.booleans()).map(
    lambda one: (one[0].upper() if one[2] else one[0]) + one[1]
)
some_pairs = st.lists(st.builds(Pair, sentences, sentences, st.integers(1, 30)), max_size=60, unique=True)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(some_pairs, st.randoms(use_true_random=False))
def test_no_sentence_and_no_line_is_in_two_splits(some: list[Pair], draw: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dict_ende, "HELD_OUT", 0.33)
        splits = split(some)
        shuffled = list(some)
        draw.shuffle(shuffled)  # type: ignore[attr-defined]
        again = split(shuffled)
    assert leaks(splits) == []
    assert sorted(pair for part in splits.values() for pair in part) == sorted(some)
    for name, part in splits.items():
        assert part == [pair for pair in some if pair in part], "in the dictionary's order"
        assert sorted(again[name]) == sorted(part), "whatever the order of the lines"


def test_a_chain_of_shared_sentences_stays_together_and_is_trained_on_where_it_is_long() -> None:
    chain = [Pair(f"de {n // 2}", f"en {(n + 1) // 2}", n + 1) for n in range(200)]
    alone = [Pair(f"allein {n}", f"alone {n}", 1000 + n) for n in range(6000)]
    splits = split([*chain, *alone])
    assert set(chain) <= set(splits["train"])
    share = dict_ende.HELD_OUT * len(alone)
    for name in ("valid", "test"):
        assert abs(len(splits[name]) - share) < 4 * share**0.5
    short = [Pair(f"kurz {k} {n // 2}", f"short {k} {(n + 1) // 2}", 6 * k + n) for k in range(3000) for n in range(6)]
    splits = split(short)
    groups = [{pair.de.split()[1] for pair in part} for part in splits.values()]
    assert sum(map(len, groups)) == 3000
    assert min(map(len, groups)) > 20


def test_the_split_does_not_depend_on_the_seed_of_hashes(tmp_path: Path) -> None:
    path = dictionary(tmp_path / "de-en", 600)
    program = (
        "import sys, hashlib\nfrom supervised.text.dict_ende import parse, split\n"
        "print(hashlib.sha256(repr(split(parse(open(sys.argv[1], encoding='utf-8')))).encode()).hexdigest())"
    )
    said = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program, str(path)]
        said.add(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(said) == 1
    splits = split(parse(path.read_text(encoding="utf-8").splitlines()))
    assert leaks(splits) == []


@pytest.mark.skipif(not DICTIONARIES[0].is_file(), reason="trans-de-en is not installed (apt install trans-de-en)")
def test_the_real_dictionary() -> None:
    with DICTIONARIES[0].open(encoding="utf-8", newline="\n") as file:
        pairs = parse(file)
    splits = split(pairs)
    assert 70_000 < len(pairs) < 100_000
    assert leaks(splits) == []
    assert len(splits["valid"]) in range(1000, 1500)
    assert len(splits["test"]) in range(1000, 1500)
    assert sum(map(len, splits.values())) == len(pairs)
    for pair in pairs:
        for text in pair[:2]:
            assert not set("{}[]<>|()~/\\=…;") & set(text), pair
            assert text == " ".join(text.split()), pair
            assert len(text.split()) in range(2, 36), pair
