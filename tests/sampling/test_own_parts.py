"""Errors for models and proposals of one's own."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from noisetilt import METHODS, Method, load, optimize, rewards, sample
from noisetilt.methods import find_method
from noisetilt.models.exact import GaussianModel

MODEL = GaussianModel(torch.full((3, 8, 8), 0.5), torch.ones(8, 8))


@dataclass(frozen=True)
class Wrong:
    result: object = None
    needs_gradient: ClassVar[bool] = False

    def __call__(self, step, noise):
        return self.result


class Plain:
    needs_gradient = False


@dataclass(frozen=True)
class WithoutGradient:
    rho: float = 0.1


def changed(**members):
    own = {name: getattr(MODEL, name) for name in ("denoiser", "path", "shape", "decode")}
    return SimpleNamespace(**{**own, **members})


@pytest.mark.parametrize("result, got", [(None, "NoneType"), (torch.tensor(1.0), r"\(\)")])
def test_what_a_proposal_returns(result, got):
    with pytest.raises(ValueError, match=f"the proposal Wrong returned {got}, expected a tensor of shape"):
        sample(MODEL, [""], None, Method(proposal=Wrong(result)), 2)


@pytest.mark.parametrize(
    "part, reason",
    [
        (Wrong, r"give an object of it: Wrong\(\)"),
        (Plain(), "an object of a dataclass"),
        (lambda step, noise: noise, "an object of a dataclass|no attribute"),
        (WithoutGradient(), "it has no attribute needs_gradient"),
    ],
)
def test_what_a_part_lacks(part, reason):
    with pytest.raises(ValueError, match=reason):
        Method(proposal=part)


def test_a_proposal_is_no_method():
    with pytest.raises(ValueError, match=r"is no method; give a name of METHODS, or Method\(proposal"):
        sample(MODEL, [""], None, Wrong())
    assert find_method("NTRK") is METHODS["ntrk"]


@pytest.mark.parametrize(
    "model, message",
    [
        (changed(path=None), "has no path; a model has"),
        (changed(decode=None), "has no decode; a model has"),
        (changed(path="flow"), "the path of the model SimpleNamespace has no alpha"),
        (changed(denoiser=lambda prompts: lambda x, t, index: x), "with the attribute nfe; wrap the network"),
        (GaussianModel, "the model is the class GaussianModel"),
        ("emoji128", r"the model is the name 'emoji128', expected a model; load it with load\('emoji128'\)"),
        (SimpleNamespace(scheduler=None), r"the model is a pipeline \(SimpleNamespace\), which is guided by align"),
    ],
)
def test_what_a_model_lacks(model, message):
    for run in (lambda: sample(model, [""], None, "base", 2), lambda: optimize(model, [""], rewards.load("redness"))):
        with pytest.raises(ValueError, match=message):
            run()


def test_the_shape_of_a_prediction():
    def network(x, t, index):
        return x[:, :1]

    network.nfe = 0
    with pytest.raises(ValueError, match=r"returned \(1, 1, 8, 8\), expected the shape of x_t, \(1, 3, 8, 8\)"):
        sample(changed(denoiser=lambda prompts: network), [""], None, "base", 2)


def test_the_functions_of_a_file_are_listed(tmp_path):
    (tmp_path / "mine.py").write_text("def warm(images):\n    return images\n")
    with pytest.raises(ValueError, match="the functions are: warm"):
        rewards.load(str(tmp_path / "mine.py"))


def test_names_of_models_and_devices():
    assert load("EMOJI128").shape == load("emoji128").shape
    with pytest.raises(ValueError, match=r"device = 'gpu' is unknown; use 'cpu' or 'cuda'$"):
        load("emoji128", device="gpu")
    with pytest.raises(ValueError, match="name = None must be the name of a model, such as 'emoji128'"):
        load(None)


@pytest.mark.parametrize(
    "spec, message",
    [("style:cartoon", "the styles are: 3d"), ("my_rewards.py", "write my_rewards.py:FUNCTION")],
)
def test_rewards_that_lack_a_part(spec, message):
    with pytest.raises(ValueError, match=message):
        rewards.load(spec)


def test_a_second_reward_is_no_heldout_flag():
    with pytest.raises(ValueError, match="heldout = 'saturation' must be True or False"):
        rewards.load("redness", "saturation")
