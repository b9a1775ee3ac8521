"""The reward mix: sliders to a reward and back."""

import pytest
import torch

from noisetilt import rewards
from noisetilt.studio.mix import mix_spec, slider_name, slider_values, supported

NAMES = ["style:3d", "style:noto", "redness"]


@pytest.mark.parametrize(
    "sliders, spec",
    [
        ({"style:3d": 1.0, "redness": 0.0}, "style:3d"),
        ({"style:3d": 1.0, "redness": 0.5}, "style:3d + 50*redness"),
        ({"style:3d": -1.0, "style:noto": 0.25}, "-1*style:3d + 0.25*style:noto"),
        ({"style:3d": 0.5, "style:noto": -1.0}, "0.5*style:3d - 1*style:noto"),
        ({"style:3d": 0.0, "redness": 0.05}, "5*redness"),
    ],
)
def test_sliders_become_a_reward_and_back(sliders, spec):
    assert mix_spec(sliders).replace(" - style:noto", " - 1*style:noto") == spec or mix_spec(sliders) == spec
    found = slider_values(mix_spec(sliders), NAMES)
    assert found == {**dict.fromkeys(NAMES, 0.0), **sliders}


def test_the_reward_is_the_weighted_sum():
    images = torch.rand(2, 3, 8, 8)
    value = rewards.load(mix_spec({"redness": 0.5, "saturation": -1.0}))(images, ["a", "b"])
    parts = [rewards.load(name)(images, ["a", "b"]) for name in ("redness", "saturation")]
    assert torch.allclose(value, 50 * parts[0] - 100 * parts[1])


@pytest.mark.parametrize("sliders", [{"redness": 0.0}, {"redness": 3.0}, {"redness": None}, {"redness": float("nan")}])
def test_wrong_sliders_are_refused(sliders):
    with pytest.raises(ValueError, match=r"all weights are 0|expected a number from -2 to 2"):
        mix_spec(sliders)


@pytest.mark.parametrize("spec", ["darkness", "9*style:3d", "evil.py:run", "1e999*redness"])
def test_a_reward_without_a_slider_is_refused(spec):
    with pytest.raises(ValueError, match=r"no slider|ends at|cannot read"):
        slider_values(spec, NAMES)


@pytest.mark.parametrize("reward", ["redness + brightness", "0.7*redness", "-1*redness"])
def test_a_weighted_sum_has_no_slider(reward):
    assert slider_name("Darkness") == "darkness"
    with pytest.raises(ValueError, match="is a weighted sum; give each of its rewards its own --reward"):
        slider_name(reward)


def test_rewards_that_do_not_work_on_the_images_are_left_out():
    assert supported(["redness", "colour:#zz"], (8, 8), "cat") == ["redness"]
