import pytest
import torch

from noisetilt.models.denoiser import Denoiser, to_x0
from noisetilt.path import FlowPath, VEPath, VPPath

VP = VPPath([0.99, 0.8, 0.5, 0.1])


@pytest.mark.parametrize("path, t", [(FlowPath(), 0.4), (VP, 2), (VEPath(), 3.0)])
@pytest.mark.parametrize("prediction", ["x0", "epsilon", "v", "velocity"])
def test_every_prediction_type_converts_to_x0(path, t, prediction):
    generator = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    alpha, sigma = path.alpha(t), path.sigma(t)
    output = {"x0": x_0, "epsilon": noise, "v": alpha * noise - sigma * x_0, "velocity": noise - x_0}[prediction]
    x_t = alpha * x_0 + sigma * noise
    assert torch.allclose(to_x0(path, prediction, output, x_t, t), x_0, atol=1e-12)


def test_velocity_is_the_derivative_of_the_flow():
    x_0, noise = torch.tensor([0.3]), torch.tensor([-1.1])
    h = 1e-3
    forward = [FlowPath().alpha(t) * x_0 + FlowPath().sigma(t) * noise for t in (0.5 - h, 0.5 + h)]
    assert torch.allclose((forward[1] - forward[0]) / (2 * h), noise - x_0, atol=1e-4)


def test_classifier_free_guidance_counts_once_in_nfe():
    denoiser = Denoiser(FlowPath(), lambda x, t, i: x + 1, "x0", lambda x, t, i: x, guidance=3.0)
    out = denoiser(torch.zeros(4, 2), 0.5)
    assert torch.equal(out, torch.full((4, 2), 3.0))
    assert denoiser.nfe == 4


def test_index_selects_the_prompt():
    table = torch.tensor([10.0, 20.0])
    denoiser = Denoiser(FlowPath(), lambda x, t, i: x + table[i][:, None])
    assert denoiser(torch.zeros(3, 1), 0.5, torch.tensor([1, 0, 1])).flatten().tolist() == [20, 10, 20]


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="prediction"):
        Denoiser(FlowPath(), lambda x, t, i: x, "eps")
    with pytest.raises(ValueError, match="guidance"):
        Denoiser(FlowPath(), lambda x, t, i: x, guidance=2.0)
    with pytest.raises(ValueError, match="alpha = 0"):
        to_x0(FlowPath(), "epsilon", torch.zeros(1), torch.zeros(1), 1.0)
