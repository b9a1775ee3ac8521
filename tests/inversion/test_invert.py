"""Inversion on a linear model, where the noise of an image is known, and its edits."""

import importlib
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from noisetilt import METHODS, invert, noise
from noisetilt.inversion.distances import coarse
from noisetilt.models.denoiser import Denoiser
from noisetilt.path import FlowPath
from noisetilt.rewards import Reward

SHAPE = (3, 16, 16)
TONES = {"dark": -0.5, "bright": 0.5}


class Mixing:
    """A one-step model: x̂_0 is a fixed rotation of the noise, scaled, plus the tone that the prompt names."""

    path, shape = FlowPath(), SHAPE

    def __init__(self):
        matrix = torch.randn(768, 768, generator=torch.Generator().manual_seed(0))
        self.rotation = torch.linalg.qr(matrix)[0] * 0.2

    def denoiser(self, prompts):
        unknown = [p for p in prompts if p not in TONES]
        if unknown:
            raise ValueError(f"the prompt {unknown[0]!r} is unknown")
        tones = torch.tensor([TONES[p] for p in prompts])[:, None]

        def network(x_t, t, index):
            return (x_t.flatten(1) @ self.rotation + tones[index]).view_as(x_t)

        return Denoiser(self.path, network)

    def decode(self, x_0):
        return (x_0 + 1) / 2

    def encode(self, images):
        return 2 * images - 1


class WithoutEncoder(Mixing):
    encode = property()


MODEL = Mixing()


def drawn(prompts, seed=7):
    x = torch.randn(len(prompts), *SHAPE, generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(len(prompts))
    return x, MODEL.decode(MODEL.denoiser(prompts)(x, 1.0, rows)).clamp(0, 1)


@pytest.mark.parametrize("distance", ["pixels", "latents", lambda images: images.flatten(1)])
def test_the_noise_of_the_models_own_images_is_found(distance):
    x, images = drawn(["dark", "bright"])
    found = invert(MODEL, images, ["dark", "bright"], METHODS["none"].replace(rate=0.1), 100, distance=distance)
    assert (found.noise - x).square().mean() < 1e-2
    assert (found.psnr > 40).all() and found.curve.shape == (101, 2)
    assert found.curve[0].min() > 100 * found.distances.max()
    assert torch.equal(found.curve.min(0).values, found.distances)
    assert torch.allclose(found.distances, found.curve[found.iterations, torch.arange(2)])


@pytest.mark.parametrize("method", ["none", "reno", "prno", "mpgr", "gper", "gper-both", "gper-w", "gper-rotation"])
def test_every_ascent_lowers_the_distance(method):
    _, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", method, 20)
    assert found.distances.item() < 0.9 * found.curve[0].item()
    assert found.iterations.item() > 0 and found.trace.nfe.item() == 21


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    _, images = drawn(["dark", "bright", "dark"])
    whole = invert(MODEL, images, ["dark", "bright", "dark"], iterations=5, seeds=[3, 4, 5], chunk=2)
    alone = invert(MODEL, images[1:2], ["bright"], iterations=5, seeds=[4])
    assert torch.allclose(whole.noise[1:2], alone.noise, atol=1e-4)


def test_an_inversion_is_continued_from_its_noise(tmp_path):
    _, images = drawn(["dark", "bright"])
    found = invert(MODEL, images, ["dark", "bright"], "gper", 10, seeds=[3, 4])
    found.save(tmp_path)
    for start in (found.noise, tmp_path / "noise.safetensors", str(tmp_path / "noise.safetensors")):
        again = invert(MODEL, images, ["dark", "bright"], "gper", 0, seeds=[3, 4], noise=start, progress=True)
        assert torch.equal(again.noise, found.noise) and torch.equal(again.distances, found.distances)
        assert torch.equal(again.edit("bright").images, found.edit("bright").images)
    further = invert(MODEL, images, ["dark", "bright"], "gper", 10, noise=found.noise)
    assert (further.distances < found.distances).all() and torch.equal(further.curve[0], found.distances)
    one = invert(MODEL, images[:1], "dark", "gper", 0, noise=found.noise[0])
    assert torch.equal(one.noise, found.noise[:1])


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (torch.zeros(2, *SHAPE), ValueError, r"noise has the shape \(2, 3, 16, 16\), expected \(1, 3, 16, 16\)"),
        (torch.full((1, *SHAPE), torch.inf), FloatingPointError, "noise has values that are not finite"),
        (torch.zeros(1, *SHAPE, dtype=torch.long), FloatingPointError, "noise has values that are not finite"),
        ("absent.safetensors", FileNotFoundError, "there is no file absent.safetensors"),
        (__file__, ValueError, "test_invert.py cannot be read as the noise of an inversion"),
    ],
)
def test_wrong_noise_is_refused(start, error, message):
    with pytest.raises(error, match=message):
        invert(MODEL, torch.zeros(1, *SHAPE), "dark", "gper", 0, noise=start)


def test_edits_are_saved(tmp_path):
    _, images = drawn(["dark", "bright"])
    found = invert(MODEL, images, ["dark", "bright"], "gper", 2, seeds=[3, 4])
    redness = Reward("redness", lambda x, p: x[:, 0].mean((1, 2)))
    plain, shifted = found.edit("bright"), found.edit(reward=redness, iterations=1, progress=True)
    for edit, prompts in ((plain, ["bright"] * 2), (shifted, ["dark", "bright"])):
        edit.save(tmp_path)
        record = json.loads((tmp_path / "result.json").read_text())
        assert record["prompts"] == prompts and record["seeds"] == [3, 4]
        assert record["rewards"] == (None if edit.rewards is None else edit.rewards.tolist())
        assert torch.equal(load_file(tmp_path / "noise.safetensors")["noise"], edit.noise)
        assert json.loads(Image.open(tmp_path / "image-1.png").text["noisetilt"])["prompt"] == "bright"


def test_typicality_is_the_audit_of_the_noise():
    _, images = drawn(["dark"])
    fresh = invert(MODEL, images, "dark", "none", iterations=0)
    assert torch.equal(fresh.typicality().p_value, noise.audit(fresh.noise).p_value)
    assert fresh.typicality().p_value.item() > 1e-3


def test_an_edit_uses_the_found_noise():
    x, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", METHODS["none"].replace(rate=0.1), 100)
    edited = found.edit("bright")
    expected = MODEL.decode(MODEL.denoiser(["bright"])(x, 1.0, torch.zeros(1, dtype=torch.long)))
    assert (edited.images - expected).square().mean() < 1e-3
    assert torch.equal(edited.noise, found.noise) and edited.rewards is None and edited.prompts == ["bright"]
    assert torch.allclose(found.edit().images, found.images, atol=1e-5)


def test_an_edit_for_a_reward_raises_it_and_keep_holds_the_image():
    _, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", iterations=10)
    red = Reward("red", lambda images: images[:, 0].mean((1, 2)))
    before = red(found.images, ["dark"])
    free, kept = (found.edit(reward=red, iterations=10, keep=keep) for keep in (0.0, 100.0))
    assert free.rewards.item() > before.item() + 0.05
    assert before.item() < kept.rewards.item() + 1e-6 < free.rewards.item()
    assert torch.equal(red(kept.images, ["dark"]), kept.rewards)
    moved = [(edit.images - found.images).square().mean() for edit in (free, kept)]
    assert moved[1] < moved[0] / 4


def test_an_edit_takes_its_gradient_where_the_inversion_did():
    """With "x0" no edit is differentiated through the network; each iterate is reported."""
    differentiated, reports = [], []

    class Watched(Mixing):
        def denoiser(self, prompts):
            plain = super().denoiser(prompts)

            def network(x_t, t, index):
                differentiated.append(x_t.requires_grad)
                return plain(x_t, t, index)

            return Denoiser(self.path, network)

    _, images = drawn(["dark"])
    for gradient_at in ("x_t", "x0"):
        found = invert(Watched(), images, "dark", iterations=1, gradient_at=gradient_at)
        differentiated.clear()
        found.edit(layout=1.0, iterations=3, callback=reports.append)
        assert found.gradient_at == gradient_at and any(differentiated) == (gradient_at == "x_t")
    assert [report.number for report in reports] == [0, 1, 2, 3] * 2 and reports[3].rewards > reports[0].rewards


def test_an_edit_keeps_by_the_distance_of_the_inversion():
    seen = []

    def distance(images):
        seen.append(len(images))
        return images

    _, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", iterations=0, distance=distance)
    seen.clear()
    found.edit(reward=Reward("red", lambda images: images[:, 0].mean((1, 2))), iterations=1)
    assert len(seen) == 3  # the image that is kept, and two iterates


def test_an_edit_maximises_a_term_of_states_with_and_without_keep():
    class Towards:
        def __call__(self, images):
            return images.mean((1, 2, 3))

        def of_states(self, x_0, images, prompts):
            return x_0[:, 0].sum((1, 2))

    _, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", iterations=1)
    free, kept = (found.edit(reward=Towards(), iterations=2, keep=keep).images for keep in (0.0, 1e-9))
    assert torch.allclose(free, kept, atol=1e-4) and free[:, 0].mean() > found.images[:, 0].mean() + 0.01


def test_random_directions_of_an_edit_are_independent_of_the_first_noise():
    states = []

    class Watched(Mixing):
        def denoiser(self, prompts):
            plain = super().denoiser(prompts)
            return Denoiser(self.path, lambda x_t, t, index: states.append(x_t.detach()) or plain(x_t, t, index))

    _, images = drawn(["dark"])
    found = invert(Watched(), images, "dark", METHODS["none"].replace(draws=1), iterations=0)
    states.clear()
    found.edit(layout=1.0, iterations=1)
    directions = [x - found.noise for x in states if not torch.equal(x, found.noise)]
    cosines = [torch.cosine_similarity(x.flatten(1), found.noise.flatten(1)).abs().item() for x in directions[:2]]
    assert len(cosines) == 2 and max(cosines) < 0.2


def test_an_edit_can_follow_the_layout_of_the_target():
    _, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", iterations=10)
    free, held = found.edit("bright"), found.edit("bright", layout=1.0, iterations=20)
    apart = [(coarse(edit.images) - coarse(found.targets)).square().mean() for edit in (free, held)]
    assert apart[1] < 0.8 * apart[0] and held.rewards is None


def test_an_edit_with_another_prompt_keeps_its_own_image_and_not_that_of_the_inversion():
    _, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", iterations=10)
    red = Reward("red", lambda images: images[:, 0].mean((1, 2)))
    plain = found.edit("bright").images
    free, kept = (found.edit("bright", red, iterations=10, keep=keep).images for keep in (0.0, 100.0))
    assert (kept - plain).square().mean() < (free - plain).square().mean() / 4
    assert (kept - plain).square().mean() < (kept - found.images).square().mean() / 4


def test_the_weight_of_the_layout_is_not_that_of_the_image():
    _, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", iterations=10)
    red = Reward("red", lambda images: images[:, 0].mean((1, 2)))

    def edited(layout, keep):
        return found.edit("bright", red, iterations=10, layout=layout, keep=keep).images

    assert torch.equal(edited(0.1, 0.0), edited(0.1, 100.0))
    apart = [(coarse(edited(w, 1.0)) - coarse(found.targets)).square().mean() for w in (0.001, 10.0)]
    assert apart[1] < 0.9 * apart[0]


def test_several_steps_are_differentiated_through():
    _, images = drawn(["dark"])
    found = invert(MODEL, images, "dark", iterations=3, steps=3)
    assert found.trace.nfe.item() == 12 and found.ascent.chain_steps == 3
    assert invert(MODEL, images, "dark", "GPER", 0).ascent == invert(MODEL, images, "dark", "gper", 0).ascent
    assert torch.allclose(found.edit().images, found.images, atol=1e-5)
    assert not torch.allclose(found.edit(steps=1).images, found.images, atol=1e-3)


def test_images_of_several_devices_are_moved_to_the_device_of_the_model(monkeypatch):
    """The device meta stands for a GPU, which is not needed here."""
    module = importlib.import_module("noisetilt.inversion.invert")  # the function `invert` hides it
    monkeypatch.setattr(module, "_as_target", lambda image, size: image)
    images = [torch.zeros(SHAPE), torch.zeros(SHAPE, device="meta")]
    assert module.as_targets(images, SHAPE[1:], "meta").device.type == "meta"


def test_the_targets_are_encoded_and_represented_in_chunks():
    sizes = {"encode": [], "distance": []}

    class Counting(Mixing):
        def encode(self, images):
            sizes["encode"].append(len(images))
            return super().encode(images)

    def distance(images):
        sizes["distance"].append(len(images))
        return images

    model = Counting()
    found = invert(model, torch.rand(5, *SHAPE), "dark", iterations=0, distance="latents", chunk=2)
    assert sizes["encode"] == [2, 2, 1]
    other = invert(model, found.targets, "dark", iterations=0, distance="latents", chunk=5)
    assert torch.allclose(found.distances, other.distances)
    invert(model, torch.rand(5, *SHAPE), "dark", iterations=0, distance=distance, chunk=2)
    assert max(sizes["distance"]) == 2


def test_images_may_be_files_and_pillow_images(tmp_path):
    picture = Image.new("RGB", (40, 30), "red")
    picture.save(tmp_path / "a.png")
    found = invert(MODEL, [tmp_path / "a.png", picture, torch.ones(3, 5, 9)], "dark", iterations=0)
    assert found.targets.shape == (3, *SHAPE) and torch.equal(found.targets[0], found.targets[1])
    assert torch.allclose(found.targets[0].mean((1, 2)), torch.tensor([1.0, 0, 0]), atol=1e-3)
    assert invert(MODEL, str(tmp_path / "a.png"), "dark", iterations=0).images.shape == (1, *SHAPE)


def test_saved_files_hold_the_result(tmp_path):
    _, images = drawn(["dark", "bright"])
    found = invert(MODEL, images, ["dark", "bright"], iterations=2)
    found.save(tmp_path / "new")
    record = json.loads((tmp_path / "new" / "inversion.json").read_text())
    assert record["distances"] == pytest.approx(found.distances.tolist()) and len(record["curve"]) == 3
    assert torch.equal(load_file(tmp_path / "new" / "noise.safetensors")["noise"], found.noise)
    for name in ("target-0.png", "found-0.png", "target-1.png", "found-1.png"):
        assert Image.open(tmp_path / "new" / name).size == (16, 16)
    exact = replace(found, images=found.targets).record()
    assert exact["psnr"] == [None, None] and json.dumps(exact, allow_nan=False)


def test_noise_too_small_for_the_audit_is_saved_without_p_values(tmp_path):
    class Small(Mixing):
        shape = (3, 8, 8)

        def __init__(self):
            self.rotation = 0.2 * torch.eye(192)

    found = invert(Small(), torch.rand(1, 3, 8, 8), "dark", iterations=1)
    found.save(tmp_path)
    assert json.loads((tmp_path / "inversion.json").read_text())["p_values"] is None


def test_a_model_of_videos_is_refused():
    class Videos(Mixing):
        def decode(self, x_0):
            return super().decode(x_0)[:, None].repeat(1, 2, 1, 1, 1)

    with pytest.raises(ValueError, match="Videos makes videos, and `invert` needs a model of images"):
        invert(Videos(), torch.rand(2, *SHAPE), "dark", iterations=1)


IMAGE = torch.rand(1, *SHAPE)
WRONG = [
    (dict(method="ntrk"), "not a noise ascent"),
    (dict(method="gper-ntrk"), "also guides the steps"),
    (dict(iterations=-1), "iterations = -1"),
    (dict(steps=0), "steps = 0"),
    (dict(steps=1.5), r"steps = 1\.5"),
    (dict(steps=float("nan")), "steps = nan must be a whole number, 1 or more"),
    (dict(steps=[2]), r"steps = \[2\] must be a whole number"),
    (dict(distance="lpips"), "distance = 'lpips' is unknown"),
    (dict(seeds=[1, 2]), "2 seeds for 1 prompts"),
    (dict(chunk=0), "chunk = 0"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        invert(MODEL, IMAGE, "dark", **options)


def test_wrong_images_and_prompts_are_refused():
    for images, prompts, message in (
        ([], "dark", "images is empty"),
        (IMAGE, ["dark", "dark"], "2 prompts for 1 images"),
        (IMAGE, ["nothing"], "unknown"),
        (torch.rand(1, 16, 16, 3), "dark", "permute"),
        ((IMAGE * 255).byte(), "dark", "expected floats"),
        (IMAGE * 255, "dark", "divide bytes by 255"),
        (2 * IMAGE - 1, "dark", r"images has values from -\S+ to \S+, expected \[0, 1\]; give images / 2 \+ 0.5"),
        ([3], "dark", "expected a tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            invert(MODEL, images, prompts)
    with pytest.raises(FloatingPointError, match="not finite"):
        invert(MODEL, IMAGE * float("nan"), "dark")
    with pytest.raises(ValueError, match="no `encode`"):
        invert(WithoutEncoder(), IMAGE, "dark", distance="latents")
    found = invert(MODEL, IMAGE, "dark", iterations=0)
    for options, message in (
        (dict(prompts=["dark"] * 2), "2 prompts"),
        (dict(keep=-1), "keep = -1"),
        (dict(steps=0), "steps = 0"),
        (dict(steps=float("nan")), "steps = nan must be a whole number, 1 or more"),
        (dict(steps=[2]), r"steps = \[2\] must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            found.edit(**options)


def test_a_distance_that_is_not_finite_or_has_no_gradient_is_named():
    _, images = drawn(["dark"])

    def lost(images):
        return images * float("nan")

    def rounded(images):
        return images.detach().round()

    with pytest.raises(FloatingPointError, match=r"value of the distance 'lost' is not finite at iteration 0 .*row 0"):
        invert(MODEL, images, "dark", iterations=1, distance=lost)
    with pytest.raises(ValueError, match=r"the distance 'rounded' has no gradient"):
        invert(MODEL, images, "dark", iterations=1, distance=rounded)
    found = invert(MODEL, images, "dark", iterations=1)
    bad = Reward("bad", lambda images: images.sum((1, 2, 3)) * float("nan"))
    with pytest.raises(FloatingPointError, match="the distance 'pixels' and the reward 'bad' is not finite"):
        found.edit(reward=bad, iterations=1)


def test_an_inversion_with_a_module_as_distance_is_saved(tmp_path):
    class Halves(torch.nn.Module):
        def forward(self, images):
            return images[..., :8]

    _, images = drawn(["dark"])
    invert(MODEL, images, "dark", iterations=1, distance=Halves()).save(tmp_path)
    assert json.loads((tmp_path / "inversion.json").read_text())["distance"] == "Halves"


@pytest.mark.parametrize("size", [(128, 128), (28, 30), (5, 100)])
def test_the_layout_is_the_means_over_8x8_boxes(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(coarse(x), torch.nn.functional.adaptive_avg_pool2d(x, 8))
