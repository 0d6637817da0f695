"""What makes scores comparable, as fields and as the text that tables and archives hold."""

from __future__ import annotations

from evaluation.analysis.data.protocol import Protocol

SIGNATURE = {
    "game": "Pong",
    "protocol": "classic",
    "epsilon": 0.0,
    "mode": None,
    "seed": 3,
    "version": "1",
    "envpool": "2",
}


def test_seed_and_versions_are_no_part_of_it_and_it_is_read_back_from_its_text():
    protocol = Protocol.of(SIGNATURE, 5)
    assert str(protocol) == "game=Pong; protocol=classic; epsilon=0.0; mode=null; last_k=5"
    assert Protocol.read(str(protocol)) == protocol == Protocol.of(SIGNATURE | {"seed": 4, "version": "9"}, 5)


def test_the_first_difference_is_named_with_both_values():
    one = Protocol.of(SIGNATURE, 5)
    assert one.difference(Protocol.of(SIGNATURE | {"protocol": "sticky"}, 4)) == "protocol is classic and sticky"
    assert one.difference(Protocol.of(SIGNATURE | {"frame": 4}, 5)) == "frame is not given and 4"
