"""Label-smoothed losses, against their definition and each other; and the layers of CPUs against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from supervised.text import fast_cpu, losses
from supervised.text.losses import label_smoothed_loss, projected_loss

PAD = 0


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels_of(count: int, vocabulary: int, seed: int) -> Tensor:
    """Some of them padding."""
    return torch.randint(0, vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 6), vocabulary=st.integers(2, 9), smoothing=st.floats(0.0, 0.9), seed=st.integers(0, 1_000))
def test_the_loss_is_its_definition(rows: int, vocabulary: int, smoothing: float, seed: int) -> None:
    """Cross entropy with 1 - smoothing for the label and the rest for the others, summed over what is no padding."""
    logits, labels = 3 * numbers(rows, vocabulary, seed=seed), labels_of(rows, vocabulary, seed)
    wanted = torch.full((rows, vocabulary), smoothing / (vocabulary - 1), dtype=torch.float64)
    wanted[torch.arange(rows), labels] = 1 - smoothing
    kept = labels != PAD
    found = label_smoothed_loss(logits, labels, smoothing, PAD)
    torch.testing.assert_close(found.total, -(wanted * logits.log_softmax(1)).sum(1)[kept].sum())
    torch.testing.assert_close(found.nll, F.cross_entropy(logits, labels, ignore_index=PAD, reduction="sum"))
    assert found.tokens == kept.sum()
    assert found.correct == (logits.argmax(1) == labels)[kept].sum()


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(2, 9),
    smoothing=st.floats(0.0, 0.9),
    seed=st.integers(0, 1_000),
    at_once=st.integers(1, 40),
    waits=st.booleans(),
)
def test_chunk_by_chunk_it_is_the_same_loss_with_the_same_gradients(
    rows: int, vocabulary: int, smoothing: float, seed: int, at_once: int, waits: bool
) -> None:
    hidden, weight = (
        numbers(rows, 3, seed=seed).requires_grad_(),
        numbers(vocabulary, 3, seed=seed + 1).requires_grad_(),
    )
    labels = labels_of(rows, vocabulary, seed)
    expected = label_smoothed_loss(hidden @ weight.T, labels, smoothing, PAD)
    gradients = torch.autograd.grad(7 * expected.total, (hidden, weight))
    before = losses.CPU_LOGITS
    losses.CPU_LOGITS = at_once
    try:
        if waits:
            found = projected_loss(hidden, weight, labels, smoothing, PAD)
        else:  # as where padding stays, since nobody waits to know how much there is
            kept = labels != PAD
            sums = losses._ProjectedLoss.apply(hidden, weight, labels, kept, smoothing, True)
            found = losses.TokenLoss(sums[0], sums[1], kept.sum(), sums[2])
    finally:
        losses.CPU_LOGITS = before
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(torch.autograd.grad(7 * found.total, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_is_learned_from_padding_alone() -> None:
    hidden, weight = numbers(2, 3).requires_grad_(), numbers(5, 3).requires_grad_()
    found = projected_loss(hidden, weight, torch.zeros(2, dtype=torch.int64), 0.1, PAD)
    assert [one.item() for one in found] == [0, 0, 0, 0]
    found.total.backward()
    assert not hidden.grad.any()  # type: ignore[union-attr]
    assert not weight.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_great_logits_are_no_infinities(dtype: torch.dtype) -> None:
    hidden = torch.tensor([[1e4], [1e4]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[0.0], [1.0], [-1.0]], dtype=dtype, requires_grad=True)
    found = projected_loss(hidden, weight, torch.tensor([1, 2]), 0.0, PAD)
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx(2e4, rel=0.01)
    assert found.correct == 1
    found.total.backward()
    torch.testing.assert_close(hidden.grad, torch.tensor([[0.0], [2.0]], dtype=dtype))


def test_without_gradients_none_are_made() -> None:
    hidden, weight = numbers(4, 3).requires_grad_(), numbers(5, 3).requires_grad_()
    with torch.no_grad():
        found = projected_loss(hidden, weight, torch.tensor([1, 2, 3, 4]), 0.1, PAD)
    assert not found.total.requires_grad
    torch.testing.assert_close(found, label_smoothed_loss(hidden @ weight.T, torch.tensor([1, 2, 3, 4]), 0.1, PAD))


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's layers, wherever there are any and however small."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(fast_cpu, "_ONEDNN", torch.ops.mkldnn._linear_pointwise)
    monkeypatch.setattr(fast_cpu, "FEWEST_PRODUCTS", 80 * 24 * 40)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(80, 24), (10, 9, 24), (3, 24)])
def test_linear_is_torchs(onednn: None, shape: tuple[int, ...], bias: bool) -> None:
    """Outputs, gradients, and gradients of gradients."""
    x = numbers(*shape, dtype=torch.float32).requires_grad_()
    weight = numbers(40, 24, seed=1, dtype=torch.float32).requires_grad_()
    offset = numbers(40, seed=2, dtype=torch.float32).requires_grad_() if bias else None
    inputs = [x, weight] if offset is None else [x, weight, offset]
    factors = numbers(*shape[:-1], 40, seed=3, dtype=torch.float32)

    def everything(function: object) -> list[Tensor]:
        y = function(x, weight, offset)  # type: ignore[operator]
        first = torch.autograd.grad((y.sin() * factors).sum(), inputs, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum(one.square().sum() for one in first), inputs)]

    for one, other in zip(everything(fast_cpu.linear), everything(F.linear), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_where_onednn_is_faster_it_is_used(onednn: None) -> None:
    assert fast_cpu.usable(torch.zeros(80, 24), torch.zeros(40, 24))
    assert not fast_cpu.usable(torch.zeros(79, 24), torch.zeros(40, 24))
    assert not fast_cpu.usable(torch.zeros(80, 24, dtype=torch.float64), torch.zeros(40, 24, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert not fast_cpu.usable(torch.zeros(80, 24), torch.zeros(40, 24))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.003])
def test_dropout_drops_as_often_as_it_is_told_each_element_by_itself(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 1001)  # no multiple of the four that come of one number
    kept = fast_cpu.dropped(x, p)
    values = kept.unique()
    assert len(values) == 2
    assert values[0] == 0
    assert values[1].item() == pytest.approx(1 / (1 - p), rel=1e-3)
    zeros = (kept == 0).double().flatten()[:400_000]
    deviation = (p * (1 - p) / 100_000) ** 0.5
    for lane in range(4):
        assert zeros[lane::4].mean().item() == pytest.approx(p, abs=5 * deviation)
    pairs = [(zeros[k:] * zeros[:-k]).mean().item() for k in (1, 2, 3, 4)]  # of neighbours: independent
    assert pairs == pytest.approx([p * p] * 4, abs=5 * (p * p / 400_000) ** 0.5)


def test_dropout_is_a_function_of_the_generators_state_and_differentiable() -> None:
    x, y = torch.ones(40, 8, requires_grad=True), torch.full((40, 8), 3.0, requires_grad=True)
    torch.manual_seed(5)
    first = fast_cpu.add_dropped(x, y, 0.25)
    torch.manual_seed(5)
    assert torch.equal(fast_cpu.add_dropped(x, y, 0.25), first)
    assert not torch.equal(fast_cpu.add_dropped(x, y, 0.25), first)
    assert set(first.unique().tolist()) == {1.0, 5.0}
    first.sum().backward()
    assert torch.equal(x.grad, torch.ones(40, 8))  # type: ignore[arg-type]
    torch.testing.assert_close(y.grad, (first.detach() - 1) / 3)


def test_of_equal_logits_an_evaluation_counts_one() -> None:
    """As argmax does; the faster form in training counts all that share the highest."""
    hidden, weight, labels = torch.zeros(7, 4), torch.ones(7, 4), torch.arange(7)
    with torch.no_grad():
        assert projected_loss(hidden, weight, labels, 0.1, pad=99).correct == 1
    assert projected_loss(hidden, weight.requires_grad_(), labels, 0.1, pad=99).correct == 7
