"""Guided diffusers pipelines: the pipeline's own loop, with the engine as its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...methods import Method, find_method
from ...rewards.reward import RewardFunction
from ...sampling.trace import Trace
from ..guide import GradientAt, check_guidance
from .families import Family, find_family
from .pipeline_call import PipelineCall
from .schedules import first_order


def align(
    pipe: Any,
    reward: RewardFunction | None = None,
    method: str | Method = "ntrk",
    eta: float = 1.0,
    decode: Callable[[Tensor], Tensor] | None = None,
    *,
    gradient_at: GradientAt = "x_t",
    chunk: int = 1,
    checkpointing: bool = False,
    heldout: RewardFunction | None = None,
) -> AlignedPipeline:
    """A diffusers pipeline that is guided by a reward, with the same call and the same output class.

    The pipeline's own loop runs, with its prompt encoding, classifier-free guidance, adapters, callbacks and timesteps;
    only its scheduler is replaced, for the duration of a call. The pipeline itself is left as it was found.

    Args:
        pipe: a pipeline of a family in `families.FAMILIES`, or any with a `scheduler` and `prepare_latents` if `decode`
            is given.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised. Videos are judged frame by frame
            unless the reward has `video = True` and takes (batch, frames, 3, H, W). None only with "base".
        method: a name of METHODS or a Method. Its particles are rows of the pipeline's batch.
        eta: stochasticity of the reverse kernel: 0 is DDIM or the flow's ODE (no noise to tilt), 1 DDPM, inf full
            re-noising.
        decode: pictures in [0, 1] from the pipeline's latents (batch, …), differentiable; for families not known here.
        gradient_at: "x_t" takes the gradient through the network (one call a step still), "x0" stops at x̂_0: half the
            cost, a fraction of the memory, and the network's weights can be offloaded while the decoder works.
        chunk: rows decoded and judged at a time, which bounds the decoder's memory.
        checkpointing: whether network and decoder, where they can, recompute their activations on the way back, for
            memory.
        heldout: a reward that looks on, of the same kind: it is asked about each picture's x̂_0 after every step and
            about the final picture, and never followed. If the reward rises and it falls, the reward is being hacked.
            It costs one decoding a picture and step, without gradient.
    Returns:
        An AlignedPipeline.
    Raises:
        ImportError: if diffusers is not installed.
        ValueError: in one sentence, for a family that is not known or a method that lacks what it needs.
    """
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise ImportError('align needs diffusers; pip install "noisetilt[diffusers]"') from error
    return AlignedPipeline(pipe, reward, find_method(method), eta, decode, gradient_at, chunk, checkpointing, heldout)


class AlignedPipeline:
    """A guided pipeline; made by `align`. Attributes it does not have are those of `pipe`.

    Attributes:
        pipe: the pipeline.
        rewards, heldout, trace: of the last call, as on its output.
    """

    def __init__(
        self,
        pipe: Any,
        reward: RewardFunction | None,
        method: Method,
        eta: float,
        decode: Callable[[Tensor], Tensor] | None,
        gradient_at: GradientAt,
        chunk: int,
        checkpointing: bool,
        heldout_reward: RewardFunction | None = None,
    ) -> None:
        self.pipe, self.reward, self.method, self.eta, self.decode = pipe, reward, method, eta, decode
        self.gradient_at, self.chunk, self.checkpointing, self.heldout_reward = (
            gradient_at,
            chunk,
            checkpointing,
            heldout_reward,
        )
        self.rewards: Tensor | None = None
        self.heldout: Tensor | None = None
        self.trace: Trace | None = None
        name = type(pipe).__name__
        if not hasattr(pipe, "scheduler") or not hasattr(pipe, "prepare_latents"):
            raise ValueError(f"{name} has no scheduler or no prepare_latents; give a diffusers pipeline that has both")
        self.family = find_family(pipe) if decode is None else Family(decode)
        if self.family is None:
            raise ValueError(
                f"how {name} decodes its latents is not known; pass decode=, a function from its latents (batch, ...) "
                "to pictures (batch, 3, H, W) in [0, 1]"
            )
        if "Inpaint" in name and getattr(method.proposal, "needs_accumulated_noise", False):
            raise ValueError(
                f"{name} overwrites what is kept of the picture at every step, and whitened='path' would lose count "
                "of the noise there; use whitened='mixture'"
            )
        check_guidance(method, reward, gradient_at, chunk)
        first_order(pipe.scheduler)

    def __getattr__(self, name: str) -> Any:
        if name == "pipe":
            raise AttributeError(name)
        return getattr(self.pipe, name)

    def __call__(self, *args: Any, seeds: Sequence[int] | None = None, **kwargs: Any) -> Any:
        """The pipeline's own call, with its own arguments.

        Args:
            seeds: one whole number ≥ 0 per picture; the same seed gives the same picture in any batch and with any
                number of particles. Left out, they are drawn from `generator` (from each, if it is a list), or from
                torch's global random numbers.
            eta: replaces `align`'s for this call.
            generator, latents and all else: as the pipeline documents; latents are one per picture, of unit variance.
        Returns:
            The pipeline's output with `rewards` (picture,), the final ones, `heldout` (picture,) likewise, None where
            there is no such reward, and `trace` (see `Trace`) beside. With return_dict=False its tuple; the others are
            then on the aligned pipeline only.
        Raises:
            ValueError: for bad input, in one sentence.
            FloatingPointError: if a reward, gradient or state is not finite; names the reward and the step.
        """
        run = PipelineCall(self, args, kwargs, seeds)
        output = run()
        self.rewards, self.heldout, self.trace = run.guide.rewards, run.guide.heldout_rewards, run.guide.trace
        if not isinstance(output, tuple):
            output.rewards, output.heldout, output.trace = self.rewards, self.heldout, self.trace
        return output
