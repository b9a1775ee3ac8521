# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own reward, and how to see that it is hacked
#
# A reward is a function of images. This notebook writes one, shows how the sampler exploits it, and repairs it.
# For readers who want to guide a model by a property of their own. It takes minutes on a CPU.

# %%
import os

from matplotlib import pyplot as plt

from noisetilt import METHODS, load, rewards, sample

SMALL = "NOISETILT_SMALL" in os.environ  # a quick run for tests
STEPS, SEEDS = (2, [0]) if SMALL else (25, [0, 1, 2, 3])
PROMPTS = ["house", "bird", "sailboat", "automobile"][: len(SEEDS)]
model = load("emoji128")

# %% [markdown]
# ## A first reward
#
# We want red things. The obvious reward is the mean of red minus the mean of the other channels. It takes images
# (batch, 3, H, W) in [0, 1] and returns one value for each image; larger is better.


# %%
def redness(images):
    return (images[:, 0] - images[:, 1:].mean(1)).mean(dim=(1, 2))


base = sample(model, PROMPTS, redness, "base", STEPS, SEEDS)
base

# %%
method = METHODS["ntrk"].replace(rho=0.05)
guided = sample(model, PROMPTS, redness, method, STEPS, SEEDS)
guided

# %% [markdown]
# The reward is higher. But it cannot say whether the *thing* is red: a red background counts as much.
#
# ## A held-out reward
#
# Write down what you would check by looking at the images, as a second function. It needs no gradient, because it is
# never optimised. Here: how many of the pixels near the border are white? In an emoji nearly all are.


# %%
def white_border(images):
    border = images.clone()
    border[:, :, 12:-12, 12:-12] = 1
    white = border.amin(1) > 0.9
    inside = (images.shape[-1] - 24) ** 2
    return (white.sum((1, 2)) - inside) / (images.shape[-1] ** 2 - inside)


print(f"base:   {white_border(base.images).mean():.2f} of the border is white")
print(f"guided: {white_border(guided.images).mean():.2f}")

# %% [markdown]
# ## See it along the strength
#
# Sample with several strengths and plot both. That the reward rises shows little, because it is optimised. The run is
# *hacked* from the strength on where the held-out reward falls while the reward still rises.

# %%
strengths = (0.2,) if SMALL else (0.002, 0.01, 0.05, 0.2)


def sweep(reward, heldout, label):
    results = []
    for rho in strengths:
        method = METHODS["ntrk"].replace(rho=rho)
        results.append(sample(model, PROMPTS, reward, method, STEPS, SEEDS, heldout=heldout))
    _, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.semilogx(strengths, [result.rewards.mean() for result in results], "o-")
    left.set(xlabel="rho", ylabel="reward")
    means = [result.heldout.mean() for result in results]
    right.semilogx(strengths, means, "o-", color="tab:orange")
    right.set(xlabel="rho", ylabel=f"held-out: {label}")
    plt.show()
    return results


naive = sweep(redness, white_border, "white border")
naive[-1]

# %% [markdown]
# ## Repair the reward
#
# Say in the reward what must stay. This one averages the redness over the middle of the image only, and subtracts how
# far the border is from white.


# %%
def red_thing(images):
    middle = redness(images[:, :, 24:-24, 24:-24])
    dark = (1 - images).mean(1)
    border = dark.sum((1, 2)) - dark[:, 12:-12, 12:-12].sum((1, 2))
    return middle - 2 * border / (128**2 - 104**2)


repaired = sweep(red_thing, white_border, "white border")
repaired[-1]

# %% [markdown]
# The border is white now. But at the largest strength the things have lost their details: neither the reward nor this
# held-out reward says that a bird must remain a bird.
#
# ## A second held-out reward
#
# `alignment` scores how well an image fits its prompt. Its held-out version is a network that this sampler does not
# see.

# %%
alignment = rewards.load("alignment", heldout=True)
checked = sweep(red_thing, alignment, "alignment")

# %% [markdown]
# The strength to use is the largest one at which this measure is not clearly below its value without guidance:

# %%
plain = alignment(base.images, PROMPTS).mean()
print(f"base: {plain:.2f}")
kept = [i for i, result in enumerate(checked) if result.heldout.mean() > plain - 1]
for rho, result in zip(strengths, checked, strict=True):
    print(f"rho = {rho}: {result.heldout.mean():.2f}")
checked[max(kept, default=0)]

# %% [markdown]
# ## Check list
#
# 1. Look at the images at a strength that is too large: what the sampler does there shows what the reward really
#    rewards.
# 2. Evaluate a second measure that the sampler does not see, with `heldout=`.
# 3. Use the largest strength at which no held-out reward falls clearly.
# 4. For `style:*`, `alignment`, `concept:*` and rewards from the hub, `rewards.load(name, heldout=True)` loads another
#    network. For all other rewards it returns the same reward: choose another one yourself.
