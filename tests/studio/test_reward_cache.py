"""Rewards that take long to load are loaded once, and again when their file has changed."""

import pytest

from noisetilt.rewards import Reward
from noisetilt.studio.reward_cache import MOST, RewardCache


def test_a_file_is_executed_again_only_when_it_has_changed(tmp_path):
    file, cache = tmp_path / "calm.py", RewardCache()
    name = f"{file}:calm"
    file.write_text("def calm(images):\n    return images.mean((1, 2, 3))\n")
    first = cache.load(name)
    assert cache.load(name) is first and cache.load(name, heldout=True) is first
    file.write_text("def calm(images):\n    return -images.mean((1, 2, 3))\n")
    assert cache.load(name) is not first
    file.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        cache.load(name)


def test_the_last_hub_rewards_are_kept(monkeypatch):
    loaded, cache = [], RewardCache()

    def load_hub(name, path, dtype):
        loaded.append(path)
        return Reward(name, lambda images: images)

    monkeypatch.setattr("noisetilt.rewards.catalogue.load_hub", load_hub)
    for place in ("a", "b", "a", *"cde", "a", "b"):
        cache.load(f"pickscore@{place}")
    assert loaded == [*"abcde", "b"] and len(cache._kept) == MOST


def test_the_held_out_version_of_a_learned_reward_is_another_one():
    cache = RewardCache()
    names = {cache.load("style:3d").function, cache.load("style:3d", heldout=True).function}
    assert len(names) == 2
