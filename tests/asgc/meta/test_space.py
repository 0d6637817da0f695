"""What is learned, as a vector: ranges, kinds of layer, and the way back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from asgc.meta import KINDS, PARAMETERS, Space, kinds_of
from asgc.option import in_range
from asgc.options import ASGC_OPTIONS, LR

EVERY = tuple(PARAMETERS)


@pytest.mark.parametrize("name", EVERY)
def test_ranges_are_within_what_asgc_allows(name: str) -> None:
    allowed = next(option.allowed for option in (LR, *ASGC_OPTIONS) if option.name == name)
    for z in (-50.0, 0.0, 50.0):
        assert in_range(float(PARAMETERS[name].value(torch.tensor(z, dtype=torch.float64))), allowed)


@given(name=st.sampled_from(EVERY), share=st.floats(0.01, 0.99))
def test_z_and_value_are_inverse(name: str, share: float) -> None:
    one = PARAMETERS[name]
    value = one.low * (one.high / one.low) ** share if one.log else one.low + (one.high - one.low) * share
    found = one.value(torch.tensor(one.z(value), dtype=torch.float64))
    assert float(found) == pytest.approx(value, rel=1e-9)
    assert one.low < float(one.value(torch.tensor(one.z(one.low / 2), dtype=torch.float64))) < one.high


def test_a_vector_is_options_for_each_kind_of_layer() -> None:
    space = Space(("clip_factor", "outlier_share"), by_share=True)
    assert (space.rows, space.size) == (6, 12)
    vector = space.start({"clip_factor": 2.0, "outlier_share": 0.25})
    values = space.values(vector)
    assert set(values) == set(KINDS)
    for own in values.values():
        assert {name: float(value) for name, value in own.items()} == pytest.approx(
            {"clip_factor": 2.0, "outlier_share": 0.25}
        )
    z = vector.reshape(6, 2).clone()
    z[1 + KINDS.index("head"), 0] = 1.0  # the head's clip_factor
    z[-1, 1] = -2.0  # outlier_share at the end
    at_half = space.values(z.flatten(), 0.5)
    assert float(at_half["head"]["clip_factor"]) > float(at_half["weights"]["clip_factor"])
    assert float(at_half["weights"]["clip_factor"]) == pytest.approx(2.0)
    end = PARAMETERS["outlier_share"].value(torch.tensor(PARAMETERS["outlier_share"].z(0.25) - 1.0))
    assert float(at_half["vectors"]["outlier_share"]) == pytest.approx(float(end), rel=1e-6)


def test_options_are_differentiable_in_the_vector() -> None:
    space = Space(("noise_scale", "noise_decay"), kinds=("head",))
    vector = space.start({"noise_scale": 0.1, "noise_decay": 0.5}).requires_grad_()

    def end(z: torch.Tensor) -> torch.Tensor:
        return torch.stack([x for own in space.values(z, 0.3).values() for x in own.values()])

    assert torch.autograd.gradcheck(end, (vector,))


@pytest.mark.parametrize(
    ("names", "kinds", "words"),
    [
        (("clip_facto",), KINDS, "no option 'clip_facto' can be learned"),
        (("clip_factor",), ("biases",), "no kind of layer 'biases'"),
        ((), KINDS, "nothing to be learned"),
    ],
)
def test_what_cannot_be_learned_is_said(names: tuple[str, ...], kinds: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Space(names, kinds)


def test_kinds_of_layers() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))
    params = list(network.parameters())
    assert kinds_of(params) == ["weights", "vectors", "vectors", "vectors", "head", "head"]

    class Translator(nn.Module):
        def __init__(self, output: nn.Module | None) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 8)
            self.layer, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
            if output is not None:
                self.output = output

    def of(model: nn.Module) -> list[str]:
        names, given = zip(*model.named_parameters(), strict=True)
        return kinds_of(given, names)

    body = ["embeddings", "weights", "vectors", "vectors", "vectors"]
    assert of(Translator(None)) == body  # tied: the last matrix is a hidden one
    assert of(Translator(nn.Linear(8, 50))) == [*body, "head", "head"]
    assert of(Translator(nn.Linear(8, 3))) == [*body, "head", "head"]  # it is called so
    model = Translator(None)
    model.to_vocabulary = nn.Linear(8, 50)
    assert of(model) == [*body, "head", "head"]  # a row for each subword
    assert kinds_of([torch.zeros(3)]) == ["vectors"]
    assert kinds_of([]) == []
