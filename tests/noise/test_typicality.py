"""The audit gives uniform p-values for white noise, detects each structure by its own test, and checks arguments."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from noisetilt.noise import _nulls as nulls
from noisetilt.noise import audit, typicality


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EVENTS = [(4096,), (32, 32), (3, 32, 32), (2, 5, 12, 16), (1, 1001), (64, 2, 2), (512, 1, 1), (128, 1, 2)]


@pytest.mark.parametrize("event", EVENTS)
def test_every_p_value_is_a_probability_and_uniform_on_noise(event):
    found = audit(normal(300, *event))
    assert found.p_value.shape == (300,) and found.p_value.dtype == torch.float64
    for name, p in [*found.tests.items(), ("overall", found.p_value)]:
        assert ((p >= 0) & (p <= 1)).all(), name
        for level in (0.01, 0.05, 0.2):
            most = stats.binom.ppf(1 - 1e-6, 300, level)
            assert (p < level).sum() <= most, (name, level)
    assert (found.p_value < 0.5).double().mean() > 0.3


FAULTS = {
    "mean": lambda x: x + 0.1,
    "energy": lambda x: 1.05 * x,
    "skewness": lambda x: x + 0.1 * (x**2 - 1),
    "kurtosis": lambda x: x + 0.05 * (x**3 - 3 * x),
    "values": lambda x: x.sign() * x.abs() ** 1.2,
    "largest value": lambda x: torch.where(x == x.flatten(1).amax(1).view(-1, 1, 1, 1), 8.0, x),
    "sequence bands": lambda x: x + 0.3 * x.roll(1, -1),
    "sequence line": lambda x: x + 0.5 * torch.cos(0.7 * torch.arange(x[0].numel())).view(x[0].shape),
    "field bands": lambda x: x + 0.3 * x.roll((0, 1), (-2, -1)) + 0.3 * x.roll((1, 0), (-2, -1)),
    "field line": lambda x: x + 0.4 * torch.cos(2 * math.pi * 5 * torch.arange(64) / 64),
    "field powers": lambda x: flat_spectrum(x),
    "near neighbours": lambda x: x + 0.2 * x.roll(1, -2),
    "far neighbours": lambda x: x + 0.2 * x.roll((17, 9), (-2, -1)),
    "channel means": lambda x: x + torch.tensor([0.2, -0.2, 0.0]).view(3, 1, 1),
    "channel energies": lambda x: x * torch.tensor([1.1, 1.0, 0.9]).view(3, 1, 1),
    "channel correlation": lambda x: x + 0.2 * x[:, :1] * torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1),
    "tile means": lambda x: x + 0.3 * normal(1, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3),
    "tile energies": lambda x: x * (1 + 0.3 * normal(1, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)),
    "large-tile energies": lambda x: x * torch.linspace(0.8, 1.2, 64)[:, None],
    "two-level order": lambda x: (x.unflatten(3, (4, 16)) * torch.linspace(0.3, 1.4, 4)[:, None]).flatten(3),
}


def flat_spectrum(x):
    transformed = torch.fft.fftn(x, dim=(1, 2, 3), norm="ortho")
    return torch.fft.ifftn(transformed / transformed.abs(), dim=(1, 2, 3), norm="ortho").real


@pytest.mark.parametrize("level", [0, 1, 5, "0.01"])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(ValueError, match=f"level is {level!r}, expected a probability"):
        audit(normal(1, 256)).rejected(level)


@pytest.mark.parametrize("name", FAULTS)
def test_each_test_detects_its_fault(name):
    found = audit(FAULTS[name](normal(4, 3, 64, 64)))
    assert found.tests[name].median() < 1e-3
    assert found.rejected(0.01).all()


def test_tiles_of_equal_energy_are_rejected():
    tiles = normal(2, 3, 8, 8, 8, 8)
    tiles = tiles / tiles.square().mean((3, 5), keepdim=True).sqrt()
    assert (audit(tiles.reshape(2, 3, 64, 64)).tests["tile energies"] < 1e-6).all()


def test_constant_and_zero_vectors_are_rejected():
    assert audit(torch.zeros(1, 3, 16, 16)).rejected().all()
    assert audit(torch.ones(1, 3, 16, 16)).rejected().all()


def test_vectors_of_a_batch_are_independent():
    x = normal(5, 2, 16, 16)
    torch.testing.assert_close(audit(x).p_value[3:4], audit(x[3:4]).p_value)


@pytest.mark.parametrize("event", [(512, 1), (512, 1, 1), (512, 1, 1, 1)])
def test_an_event_of_single_positions_is_a_sequence(event):
    """Its spectrum is tested once."""
    x = normal(3, 512)
    flat, other = audit(x), audit(x.view(3, *event))
    assert list(other.tests) == list(flat.tests) and "field line" not in other.tests
    assert torch.equal(other.p_value, flat.p_value)


def test_rows_are_tested_in_parts(monkeypatch):
    """The parts bound the memory; one row is the least."""
    x, sizes, real = normal(5, 3, 16, 16), [], typicality.p_values
    whole = audit(x)
    monkeypatch.setattr(typicality, "p_values", lambda part: (sizes.append(len(part)), real(part))[1])
    for chunk, expected in ((1600, [2, 2, 1]), (1, [1] * 5)):
        sizes.clear()
        monkeypatch.setattr(typicality, "CHUNK", chunk)
        parts = audit(x)
        assert sizes == expected
        torch.testing.assert_close(parts.p_value, whole.p_value)


def test_prints_a_table():
    text = str(audit(normal(2, 3, 16, 16)))
    assert "near neighbours" in text and text.splitlines()[-1].startswith("overall")


def test_anderson_darling_against_published_quantiles():
    """Stephens (1974): 1.933, 2.492, 3.857 at 10, 5 and 1 %."""
    a, log_upper, _ = nulls.anderson_darling_table()
    for value, tail in ((1.933, 0.10), (2.492, 0.05), (3.857, 0.01)):
        assert math.exp(np.interp(value, a, log_upper)) == pytest.approx(tail, rel=0.03)


def test_moment_tests_agree_with_scipy():
    x = np.random.default_rng(0).normal(size=(20, 500))
    ours = nulls.skewness(stats.skew(x, axis=1), 500)
    np.testing.assert_allclose(ours, stats.skewtest(x, axis=1).pvalue, rtol=1e-9)
    ours = nulls.kurtosis(stats.kurtosis(x, axis=1, fisher=False), 500)
    np.testing.assert_allclose(ours, stats.kurtosistest(x, axis=1).pvalue, rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(1, 100), "256 or more"),
        (torch.zeros(0, 3, 16, 16), "at least one vector"),
        (torch.full((1, 300), math.nan), "NaN"),
        (torch.zeros(300), "batch axis"),
    ],
)
def test_refuses(x, says):
    with pytest.raises(ValueError, match=says):
        audit(x)
