"""Denoisers of Azula itself, against its own samplers."""

import pytest
import torch

from noisetilt import METHODS, sample
from noisetilt.integrations.azula import AzulaModel

azula = pytest.importorskip("azula", reason="needs pip install azula")
from azula.denoise import KarrasDenoiser, SimpleDenoiser  # noqa: E402
from azula.noise import CosineSchedule, RectifiedSchedule, VPSchedule  # noqa: E402
from azula.sample import DDIMSampler  # noqa: E402


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
        )

    def forward(self, x, t, label=None):
        out = self.net(x) + t.reshape(-1, 1, 1, 1) * 0.01
        return out if label is None else out + label.view(-1, 1, 1, 1)


def model_of(schedule, kind=KarrasDenoiser, **options):
    torch.manual_seed(0)
    return AzulaModel(kind(Net(), schedule()).double().eval(), (3, 8, 8), **options)


@pytest.mark.parametrize("schedule", [VPSchedule, CosineSchedule, RectifiedSchedule])
@pytest.mark.parametrize("kind", [KarrasDenoiser, SimpleDenoiser])
def test_base_with_eta_zero_is_azulas_ddim(schedule, kind):
    """From the same initial noise, on the same times."""
    model = model_of(schedule, kind, decode=lambda x: x)
    seen = []
    network = model.denoiser_module.forward
    model.denoiser_module.forward = lambda x, t, **o: seen.append(x) or network(x.double(), t.double(), **o)
    ours = sample(model, ["", ""], None, "base", 6, [0, 1], eta=0.0).images
    sampler = DDIMSampler(model.denoiser_module, steps=6, silent=True, dtype=torch.float64)
    assert torch.allclose(ours.double(), sampler(seen[0].double()), atol=1e-4)


def test_tilting_raises_a_reward_and_labels_follow_the_prompts():
    def labels(prompts):
        return {"label": torch.tensor([float(len(prompt)) for prompt in prompts])}

    model = model_of(CosineSchedule, conditioning=labels)
    network = model.denoiser_module.forward
    model.denoiser_module.forward = lambda x, t, label: network(x.double(), t.double(), label=label / 10)
    reward = lambda images: images[:, 0].mean((1, 2))  # noqa: E731
    base, guided = (
        sample(model, ["", "abc"], reward, METHODS["ntrk"].replace(rho=rho), 8, [0, 1]) for rho in (0.0, 0.5)
    )
    assert (guided.rewards > base.rewards).all() and base.rewards[1] > base.rewards[0]
