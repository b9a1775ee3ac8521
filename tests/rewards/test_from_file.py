"""Rewards from a Python file: "file.py:function"."""

import pytest
import torch

from noisetilt import rewards

CODE = """
import torch

def calm(images):
    return -images.diff(dim=-1).abs().mean(dim=(1, 2, 3))

def Long(images, prompts):
    return torch.tensor([float(len(prompt)) for prompt in prompts])

Long.differentiable = False
"""


@pytest.fixture()
def file(tmp_path):
    file = tmp_path / "Calm_Rewards.py"
    file.write_text(CODE)
    return file


def test_a_function_is_loaded_by_its_file(file):
    images, reward = torch.rand(2, 3, 8, 8), rewards.load(f"{file}:calm")
    assert torch.allclose(reward(images, ["a", "b"]), -images.diff(dim=-1).abs().mean(dim=(1, 2, 3)))
    assert reward.name == f"{file}:calm" and reward.differentiable


def test_it_can_be_a_term_of_a_sum_and_keep_its_properties(file):
    reward = rewards.load(f"2*{file}:Long + redness")
    assert not reward.differentiable
    assert torch.allclose(reward(torch.zeros(2, 3, 8, 8), ["a", "abc"]), torch.tensor([2.0, 6.0]))


def test_a_relative_path_is_found(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert rewards.load("Calm_Rewards.py:calm")(torch.zeros(1, 3, 4, 4), ["a"]) == 0
    assert rewards.load("./Calm_Rewards.py:calm")(torch.zeros(1, 3, 4, 4), ["a"]) == 0


def test_what_is_missing_is_named(file):
    with pytest.raises(ValueError, match="does not exist"):
        rewards.load(f"{file.parent}/none.py:calm")
    with pytest.raises(ValueError, match="no function 'storm'; its functions are: calm, Long"):
        rewards.load(f"{file}:storm")
    file.write_text("1 / 0")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        rewards.load(f"{file}:calm")
