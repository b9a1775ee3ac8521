"""Properties that hold for every shape, dtype and content (Hypothesis)."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noisetilt.noise import (
    audit,
    from_spectrum,
    penalties,
    project_order_statistics,
    project_wgnc,
    to_spectrum,
    whiten,
)

EVENTS = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from([(300,), (257,), (16, 17), (3, 10, 11), (2, 3, 5, 11), (256, 1), (1, 1, 300), (40, 2, 4)]),
)
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
CONTENTS = ("normal", "zeros", "ones", "one entry", "ties", "signs", "tiny", "huge", "ramp")


def content(kind, shape, dtype, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    count = math.prod(shape[1:])
    made = {
        "normal": x,
        "zeros": 0 * x,
        "ones": torch.ones_like(x),
        "one entry": (torch.arange(count) == count // 2).double().expand(shape[0], -1).reshape(shape),
        "ties": x.round(),
        "signs": x.sign(),
        "tiny": x * 1e-30,
        "huge": x * 1e4,
        "ramp": torch.arange(count, dtype=torch.float64).expand(shape[0], -1).reshape(shape),
    }
    return made[kind].to(dtype)


some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
inputs = given(
    event=EVENTS, batch=st.integers(1, 3), kind=st.sampled_from(CONTENTS), dtype=DTYPES, seed=st.integers(0, 99)
)


def tolerance(dtype):
    return {torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float32: 1e-3, torch.float64: 1e-6}[dtype]


@some
@inputs
def test_whiten_keeps_shape_and_dtype_with_unit_rms(event, batch, kind, dtype, seed):
    if math.prod(event) < 2:
        return
    g = content(kind, (batch, *event), dtype, seed)
    w = whiten(g)
    assert w.shape == g.shape and w.dtype == dtype and torch.isfinite(w).all()
    rms = w.double().flatten(1).square().mean(1)
    torch.testing.assert_close(rms, torch.ones_like(rms), atol=tolerance(dtype), rtol=0)


@some
@inputs
def test_wgnc_meets_its_norms_or_refuses_an_odd_length(event, batch, kind, dtype, seed):
    x = content(kind, (batch, *event), dtype, seed)
    count = math.prod(event)
    if count % 2 or count < 4:
        with pytest.raises(ValueError, match="expected"):
            project_wgnc(x)
        return
    y = project_wgnc(x)
    assert y.shape == x.shape and y.dtype == dtype
    squared = y.double().flatten(1).square().sum(1) / count
    torch.testing.assert_close(squared, torch.ones_like(squared), atol=tolerance(dtype), rtol=0)
    spectrum = to_spectrum(y.double())
    mean = spectrum.abs().mean(1)
    torch.testing.assert_close(mean, torch.full_like(mean, math.sqrt(math.pi) / 2), atol=tolerance(dtype), rtol=0)


@some
@inputs
def test_spectrum_and_back(event, batch, kind, dtype, seed):
    x = content(kind, (batch, *event), dtype, seed)
    if math.prod(event) % 2 or math.prod(event) < 2:
        return
    back = from_spectrum(to_spectrum(x), event)
    size = x.double().abs().max().item()
    torch.testing.assert_close(back.double(), x.double(), atol=1e-5 * size, rtol=0)


@some
@given(
    event=st.sampled_from([(256,), (3, 10, 11), (2, 4, 8, 5)]), seed=st.integers(0, 99), kind=st.sampled_from(CONTENTS)
)
def test_audit_gives_probabilities_and_rejects_what_is_not_noise(event, seed, kind):
    found = audit(content(kind, (2, *event), torch.float64, seed))
    for p in (*found.tests.values(), found.p_value):
        assert ((p >= 0) & (p <= 1)).all()
    if kind in ("zeros", "ones", "one entry", "tiny", "huge", "ramp"):
        assert found.rejected().all()


@pytest.mark.parametrize("apply", [whiten, project_wgnc, lambda x: project_order_statistics(x.flatten(2))])
def test_views_gradients_empty_batches_and_nan(apply):
    x = torch.randn(4, 6, 8, 2, generator=torch.Generator().manual_seed(1))
    other = x.transpose(1, 3)
    torch.testing.assert_close(apply(other), apply(other.contiguous()))
    expanded = x[:1].expand(3, 6, 8, 2)
    torch.testing.assert_close(apply(expanded), apply(expanded.contiguous()))
    assert not apply(x.clone().requires_grad_()).requires_grad
    assert apply(x[:0]).shape[0] == 0
    for bad in (math.nan, math.inf):
        broken = x.clone()
        broken[1, 2, 3, 1] = bad
        with pytest.raises(ValueError, match="holds 1 values that are NaN or infinite"):
            apply(broken)


@pytest.mark.parametrize("count", [2, 6, 30, 34, 62])
def test_wgnc_of_lengths_that_blocks_do_not_divide(count):
    if count < 4:
        with pytest.raises(ValueError, match="expected 4 or more"):
            project_wgnc(torch.ones(1, count))
        return
    y = to_spectrum(project_wgnc(torch.randn(3, count, dtype=torch.float64)))
    half = count // 2
    torch.testing.assert_close(y.abs().square().sum(1), torch.full((3,), float(half), dtype=torch.float64))


def test_arguments_may_be_given_by_name():
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for function, name in ((whiten, "gradient"), (project_wgnc, "x"), (from_spectrum, "y")):
        given = to_spectrum(x) if name == "y" else x
        more = {"event": x.shape[1:]} if name == "y" else {}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(function(**{name: given}, **more), function(given, **more))
            assert torch.equal(function(**more, **{name: given}), function(given, **more))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whiten(alpha=1e-4, gradient=x), whiten(x, 1e-4))


def test_penalties_of_an_empty_batch_are_empty():
    empty = torch.zeros(0, 3, 16, 16)
    assert [len(penalty(empty)) for penalty in (penalties.reno, penalties.prno, penalties.mpgr)] == [0, 0, 0]


def test_wgnc_compiles_and_supports_meta_tensors():
    x = torch.randn(2, 512, generator=torch.Generator().manual_seed(2))
    compiled = torch.compile(project_wgnc, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(x), project_wgnc(x))
    assert project_wgnc(torch.empty(2, 64, device="meta")).shape == (2, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    """A sampler may run where torch.autocast is on, whose half precision would lose W's statistics."""
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    functions = (whiten, project_wgnc, to_spectrum, lambda x: audit(x).p_value, penalties.mpgr, penalties.prno)
    plain = [function(x) for function in functions]
    with torch.autocast("cpu", dtype=dtype):
        assert all(torch.equal(function(x), expected) for function, expected in zip(functions, plain, strict=True))
