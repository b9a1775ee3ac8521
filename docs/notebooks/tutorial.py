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
# # Tutorial notebook
#
# Guide an image model by a reward, check the result with a held-out reward, and set the strength.
# For readers who are new to noisetilt. It takes minutes on a CPU.

# %%
import os

import torch

from noisetilt import METHODS, load, rewards, sample

SMALL = "NOISETILT_SMALL" in os.environ  # a quick run for tests
STEPS, SEEDS = (2, [0]) if SMALL else (25, [0, 1, 2, 3])
PROMPTS = ["red heart"] * len(SEEDS)

# %% [markdown]
# ## Sample without guidance
#
# emoji128 is included: a small FluxPipeline that makes 128×128 emoji. The last line of the cell shows the result, with
# the reward of each image below it. `base` is plain sampling; the reward is only evaluated.

# %%
model = load("emoji128")
reward = rewards.load("style:3d")
base = sample(model, PROMPTS, reward, "base", STEPS, SEEDS)
base

# %% [markdown]
# ## Sample with guidance
#
# `ntrk` is noise-tilted sampling. `rho` is its strength: the fraction of the noise variance that the gradient of the
# reward gets. The seeds are the same, so the two results can be compared image by image.

# %%
heldout = rewards.load("style:3d", heldout=True)
method = METHODS["ntrk"].replace(rho=0.015)
guided = sample(model, PROMPTS, reward, method, STEPS, SEEDS, heldout=heldout)
guided

# %% [markdown]
# ## Check with the held-out reward
#
# The held-out reward measures the same property by another network, which was trained separately, on mostly
# the same images. It was not optimised. If it rises too, the images have more of the property.

# %%
with torch.no_grad():
    base_heldout = heldout(base.images, PROMPTS)
print(f"reward:   {base.rewards.mean():.2f} → {guided.rewards.mean():.2f}")
print(f"held-out: {base_heldout.mean():.2f} → {guided.heldout.mean():.2f}")

# %% [markdown]
# The trace has both rewards of the predicted image at every step.

# %%
from matplotlib import pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(guided.trace.rewards.mean(1), label="reward")
axes.plot(guided.trace.heldout.mean(1), label="held-out reward")
axes.set(xlabel="step", ylabel="mean over the images")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Set the strength
#
# A larger `rho` gives a higher reward and changes the image more. Look at the images: from some value on, details are
# lost although the rewards still rise.

# %%
for rho in (0.05,) if SMALL else (0.005, 0.05):
    method = METHODS["ntrk"].replace(rho=rho)
    result = sample(model, PROMPTS, reward, method, STEPS, SEEDS, heldout=heldout)
    print(f"rho = {rho}")
    display(result)

# %% [markdown]
# ## Next
#
# *Write your own method in ten lines* and *Your own reward, and how to see that it is hacked* are the other notebooks.
