"""W keeps Gaussian input, whitens any other input, and keeps a component along it."""

import math
import subprocess
import sys

import pytest
import torch

from noisetilt.noise import _boxes, _fourier, audit, clear_cache, shuffled, whiten, whitening
from noisetilt.noise._constants import CACHES
from noisetilt.noise._dilution import signal_fractions, statistics
from noisetilt.noise._groups import channel_mean_scores, upper_triangle
from noisetilt.noise.whitening import LIKELY, to_unit_rms, whiten_field, whiten_values


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cosine(a, b):
    return torch.cosine_similarity(a.double().flatten(1), b.double().flatten(1))


def smooth(*shape, exponent=1):
    """Noise with the spectrum 1/f^exponent."""
    wave = torch.fft.fftn(normal(*shape), dim=(-2, -1))
    f = sum(torch.fft.fftfreq(n).square().view(-1, *(1,) * i) for i, n in ((1, shape[-2]), (0, shape[-1])))
    return torch.fft.ifftn(wave / (f + shape[-1] ** -2.0) ** (exponent / 2), dim=(-2, -1)).real


EVENT = (3, 32, 32)
STRUCTURED = {
    "smooth": smooth(4, *EVENT),
    "constant": torch.ones(4, *EVENT),
    "one-hot": torch.eye(math.prod(EVENT))[[0, 5, 1000, 3071]].view(4, *EVENT),
    "checkerboard": torch.tensor([1.0, -1.0]).repeat(16)[:, None] * torch.tensor([1.0, -1.0]).repeat(4, 3, 1, 16),
    "tiled": normal(4, 3, 8, 8).repeat(1, 1, 4, 4),
    "sparse": normal(4, *EVENT) * (normal(4, *EVENT, seed=1) > 2.3),
    "low rank": normal(4, 3, 32, 1) * normal(4, 3, 1, 32, seed=1),
    "channel copies": normal(4, 1, 32, 32).expand(4, *EVENT),
    "heavy tails": normal(4, *EVENT) ** 5,
    "local": normal(4, *EVENT) * torch.exp(-(torch.linspace(-3, 3, 32) ** 2)),
    "positive": normal(4, *EVENT).abs(),
}


@pytest.mark.parametrize("event", [(16, 64, 64), (3, 64, 64), (65536,)])
def test_gaussian_input_is_unchanged(event):
    x = normal(24, *event)
    assert cosine(x, whiten(x)).min() > 0.99999


@pytest.mark.parametrize("name", STRUCTURED)
def test_keeps_direction_and_scale(name):
    g = STRUCTURED[name]
    w = whiten(g)
    torch.testing.assert_close(w.square().mean((1, 2, 3)).sqrt(), torch.ones(4))
    if name != "checkerboard":  # a single spectral line, of which white noise can hold no more than chance does
        assert (cosine(w, g) > 0.01).all()


@pytest.mark.parametrize("name", STRUCTURED)
def test_output_passes_the_audit(name):
    """The audit rejects every input, and outputs no more often than noise (rates for more inputs: docs/noise.md)."""
    g = STRUCTURED[name]
    assert audit(g / g.square().mean().sqrt()).p_value.max() < 1e-6
    p = torch.cat([audit(whiten(g, noise=normal(4, *EVENT, seed=seed))).p_value for seed in (11, 12)])
    assert p.median() > 0.02 and (p < 0.01).sum() <= 2


def test_channels_without_space_are_a_sequence():
    """Of a single position per channel there is no variance in space, which would make every mean improbable."""
    generator = torch.Generator().manual_seed(0)
    gradient, noise = (torch.randn(8, 1024, generator=generator) for _ in range(2))
    gradient = gradient + 0.5 * torch.sin(0.01 * torch.arange(1024))
    flat = whiten(gradient, noise=noise)
    for shape in ((8, 1024, 1), (8, 1024, 1, 1)):
        assert torch.allclose(whiten(gradient.view(shape), noise=noise.view(shape)).flatten(1), flat, atol=1e-6)
    assert torch.cosine_similarity(flat, gradient).mean() > 0.5


def test_dilution_hides_what_the_projections_leave():
    """Without spectral projections, the whole spectrum is left."""
    g = to_unit_rms(STRUCTURED["smooth"] - STRUCTURED["smooth"].mean((1, 2, 3), keepdim=True))
    mixed = whiten_field(g, normal(4, math.prod(EVENT), seed=3), 1e-4, first_pass=(whiten_values,), second_pass=())
    assert audit(mixed).p_value.median() > 0.02
    assert (cosine(mixed, g) > 0.02).all()


@pytest.mark.parametrize(("event", "amplitude"), [((3, 64, 64), 0.15), ((16, 16, 16), 0.3)])
def test_dilution_hides_weak_structure_in_nearly_white_input(event, amplitude):
    """The projections do not see a weak line of the 1-D spectrum, and hardly change the input."""
    g = normal(16, *event) + amplitude * torch.sin(0.3 * torch.arange(math.prod(event))).view(event)
    assert audit(to_unit_rms(g)).p_value.max() < 0.01
    white = whiten(g, noise=normal(16, *event, seed=5))
    assert (audit(white).p_value < 0.01).sum() <= 3
    assert cosine(white, g).min() > 0.3


@pytest.mark.parametrize("positions", [2, 3, 4, 256])
def test_scores_of_channel_means_have_variance_one(positions):
    scores = channel_mean_scores(normal(1000, 64, positions))
    assert scores.square().mean() == pytest.approx(1, abs=0.05)


def test_signal_fractions_are_small_for_detected_groups():
    x = normal(4, *EVENT)
    assert torch.stack(list(signal_fractions(statistics(x), LIKELY).values())).min() > 0.3
    wave = torch.cos(2 * math.pi * 5 * torch.arange(32) / 32)
    found = signal_fractions(statistics(to_unit_rms(x + 0.5 * wave)), LIKELY)
    assert (found["field line"] < 0.1).all() and (found["third moment"] > 3 * found["field line"]).all()


def test_shuffled_noise_is_independent_where_reversed_noise_is_not():
    x = normal(64, 4096)
    power = torch.fft.rfft(x)[:, 1:-1].abs().square()

    def related(y):
        other = torch.fft.rfft(y)[:, 1:-1].abs().square()
        return torch.corrcoef(torch.stack([power.flatten(), other.flatten()]))[0, 1].item()

    assert related(x.flip(1)) > 0.999
    assert abs(related(shuffled(x))) < 0.02
    assert torch.equal(shuffled(x).sort(1).values, x.sort(1).values)


@pytest.mark.parametrize("name", STRUCTURED)
def test_depends_on_direction_only(name):
    g = STRUCTURED[name]
    for scale in (2.0**-60, 2.0**50):
        assert torch.equal(whiten(g * scale), whiten(g))
    # In single precision rounding decides which side of a threshold a group falls on, differently on each processor.
    assert (cosine(whiten(g.double() * 0.3), whiten(g.double())) > 0.999).all()


def test_rows_are_independent():
    g = torch.cat(list(STRUCTURED.values()))
    alone = torch.cat([whiten(row[None]) for row in g])
    assert cosine(whiten(g), alone).min() > 0.9999


def test_zero_gradient_gives_noise():
    g, noise = normal(3, *EVENT), normal(3, *EVENT, seed=9)
    g[1] = 0
    assert cosine(whiten(g, noise=noise)[1:2], noise[1:2]) > 0.9999
    w = whiten(g)
    assert torch.isfinite(w).all() and w[1].std() == pytest.approx(1, abs=0.01)
    assert torch.equal(whiten(g)[1], w[1])


@pytest.mark.parametrize(
    ("g", "low", "high"),
    [
        (normal(4, *EVENT), 0.999, 1),
        (smooth(4, *EVENT), 0.9, 0.99),
        (smooth(4, *EVENT, exponent=2), 0.3, 0.8),
        (smooth(2, 16, 64, 64, exponent=2), 0.1, 0.5),
        (STRUCTURED["constant"], -0.1, 0.1),
    ],
    ids=["white", "1/f", "1/f²", "1/f² at the size of FLUX", "constant"],
)
def test_the_noise_decides_the_more_the_more_structured_the_gradient_is(g, low, high):
    a, b = (whiten(g, noise=normal(*g.shape, seed=seed)) for seed in (1, 2))
    assert low < cosine(a, b).mean() <= high


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 16, 31, 64, 101, 1000])
def test_any_length(n):
    for g in (normal(5, n), torch.ones(5, n), torch.zeros(5, n), normal(5, n) ** 3):
        w = whiten(g)
        assert w.shape == g.shape and torch.isfinite(w).all()
        torch.testing.assert_close(w.square().mean(1), torch.ones(5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    g = STRUCTURED["smooth"].to(dtype)
    w = whiten(g)
    assert w.dtype == dtype and torch.isfinite(w).all()


def test_extreme_scales():
    g = normal(2, 4, 16, dtype=torch.float64)
    for scale in (1e-300, 1e300):
        assert cosine(whiten(g * scale), whiten(g)).min() > 0.9999
    assert torch.isfinite(whiten(torch.full((1, 64), 60000.0, dtype=torch.float16))).all()


def test_views_gradients_and_empty_batches():
    g = normal(2, 8, 3, 8).transpose(1, 2)
    torch.testing.assert_close(whiten(g), whiten(g.contiguous()))
    assert not whiten(g.requires_grad_()).requires_grad
    assert whiten(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("event", [(3, 32, 32), (4, 3, 16, 8), (1024,)])
def test_matrix_products_and_transforms_agree(event, monkeypatch):
    """A CPU uses products with small matrices, a GPU the transforms."""
    g, noise = normal(2, *event).double().cumsum(-1), normal(2, *event, seed=8).double()
    short = whiten(g, noise=noise)
    for module in (_boxes, _fourier):
        monkeypatch.setattr(module, "prefers_matmul", lambda x, size, limit: False)
    torch.testing.assert_close(whiten(g, noise=noise), short, rtol=0, atol=1e-9)


@pytest.mark.long
def test_compiles_into_one_graph():
    g, noise = normal(2, 1, 16, 16).cumsum(-1), normal(2, 1, 16, 16, seed=8)
    compiled = torch.compile(whiten, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(g, noise=noise), whiten(g, noise=noise), rtol=0, atol=1e-3)


def test_constants_are_marked_for_torch_compile_as_torch_marks_them():
    """Without the import of torch._dynamo, which takes as long as that of torch."""
    marks = vars(torch.compiler.assume_constant_result(lambda: 0))
    assert marks and marks.items() <= vars(upper_triangle.__closure__[2].cell_contents).items()
    code = "import sys, noisetilt.noise; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_meta_tensors_have_a_shape_and_a_dtype():
    w = whiten(torch.empty(2, 3, 32, 32, device="meta", dtype=torch.bfloat16))
    assert w.is_meta and w.shape == (2, 3, 32, 32) and w.dtype == torch.bfloat16


def test_constants_are_kept_but_those_on_the_device_meta_which_hold_no_numbers():
    kept, meta = (
        upper_triangle(3, torch.device(device)) is upper_triangle(3, torch.device(device)) for device in ("cpu", "meta")
    )
    assert kept and not meta


def test_released_constants_are_computed_again():
    g = normal(2, *EVENT).cumsum(-1)
    expected = whiten(g)
    assert any(cached.cache_info().currsize for cached in CACHES)
    clear_cache()
    assert not any(cached.cache_info().currsize for cached in CACHES)
    assert torch.equal(whiten(g), expected)


def test_the_second_pass_is_left_out_where_no_row_needs_it(monkeypatch):
    """The result of a row does not depend on whether another one needs it."""
    g = torch.cat([normal(1, *EVENT), normal(1, *EVENT).cumsum(-1)])
    passes, apply = [], whitening.apply_projections
    monkeypatch.setattr(whitening, "apply_projections", lambda *args: passes.append(len(args[0])) or apply(*args))
    both = whiten(g)
    assert passes == [2, 2]
    assert torch.allclose(whiten(g[:1]), both[:1], atol=1e-5) and passes == [2, 2, 1]
    whiten(g[1:])
    assert passes == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("g", "options", "says"),
    [
        (torch.zeros(2, 1), {}, "two or more numbers per event; give larger events"),
        (torch.zeros(8), {}, "batch axis"),
        (torch.tensor([[1.0, math.nan]]), {}, "NaN"),
        (torch.zeros(1, 4), {"alpha": 2}, "alpha is 2"),
        (torch.zeros(1, 4), {"alpha": "1e-4"}, "alpha is '1e-4'"),
        (torch.zeros(1, 4), {"noise": torch.zeros(4)}, "noise has shape"),
        (torch.zeros(1, 4), {"noise": torch.zeros(2, 4)}, "noise has shape"),
        (torch.ones(1, 300), {"noise": torch.full((1, 300), math.nan)}, "noise holds 300 values that are NaN"),
        (torch.zeros(1, 4, dtype=torch.int32), {}, "int32"),
    ],
)
def test_refuses(g, options, says):
    with pytest.raises(ValueError, match=says):
        whiten(g, **options)
