"""Guided diffusers pipelines: the pipeline's own loop, with the engine in place of its scheduler."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._messages import missing_extra, shown
from ...methods import METHODS, Method, find_method
from ...rewards.reward import RewardFunction, check_callable, reward_name
from ...sampling.check_inputs import GradientAt, check_chunk
from ...sampling.engine import check_eta
from ...sampling.result import StepReport
from ...sampling.trace import Trace
from ..stepped_sampler import SteppedSampler, check_guidance
from .pipeline_call import PipelineCall, RefusedRows
from .schedules import first_order, prediction_of
from .support import check_method, reason_against
from .temporary import exclusive


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
    track: bool = True,
) -> AlignedPipeline:
    """Guides a diffusers pipeline by a reward. The result has the same call and the same output class.

    The pipeline's own loop runs, with its prompt encoding, classifier-free guidance, adapters, callbacks and timesteps;
    only its scheduler is replaced during a call. The pipeline itself is not changed.

    It may be called in `torch.inference_mode()`, which has no gradients, and leaves it during the call. If the network
    and the decoder were loaded in that mode too, the call copies their weights, which takes their memory twice.

    Args:
        pipe: a diffusers pipeline whose `__call__` makes images or videos by one loop over its `scheduler`.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised. The reward of a video is the
            mean over its frames, unless the reward has `video = True` and takes (batch, frames, 3, H, W). None is
            allowed for the method "base" only.
        method: a name of METHODS, or a Method. Its particles become rows of the pipeline's batch.
        eta: stochasticity of the reverse kernel: 0 is DDIM or the flow's ODE (no noise to tilt), 1 is DDPM, inf is
            full re-noising. The first step has η = 0 if the reward chose the initial noise, except for inf.
        decode: images in [0, 1] from the pipeline's latents (batch, …), differentiable, in place of its own decoding.
        gradient_at: "x_t": the gradient is taken through the network, still with one call per step; "x0": only through
            the decoder, at x̂_0. "x0" takes less time and memory (docs/diffusers.md has measurements), and the network's
            weights can be offloaded while the decoder runs.
        chunk: rows that are decoded and evaluated at a time, which bounds the decoder's memory.
        checkpointing: whether network and decoder use gradient checkpointing, if they support it. It takes less memory
            and more time.
        heldout: held-out reward, of the same kind. It is evaluated on each image's x̂_0 after every step and on the
            final image, and never optimised. A reward that increases while the held-out reward decreases indicates
            reward hacking. The cost is one decoding per image and step, without gradient.
        track: whether to record r(x̂_0) at every step even if the method does not need it, for which x̂_0 is decoded.
    Returns:
        An AlignedPipeline.
    Raises:
        ImportError: if diffusers is not installed.
        ValueError: for a pipeline that cannot be guided, or a method that cannot follow the reward.
    """
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise ImportError(missing_extra("diffusers", "align")) from error
    return AlignedPipeline(
        pipe, reward, find_method(method), eta, decode, gradient_at, chunk, checkpointing, heldout, track
    )


def _check_pipe(pipe: Any) -> None:
    """Raises a ValueError for what people pass in place of a pipeline."""
    if isinstance(pipe, AlignedPipeline):
        raise ValueError("the pipeline is aligned already; pass its attribute pipe")
    if isinstance(pipe, type):
        raise ValueError(f"pipe is the class {pipe.__name__}, expected a pipeline; use {pipe.__name__}.from_pretrained")
    if isinstance(pipe, (str, Path)):
        raise ValueError(
            f"pipe is {shown(pipe)}, expected a diffusers pipeline; load it with DiffusionPipeline.from_pretrained, or "
            "use noisetilt.load and sample"
        )
    if not hasattr(pipe, "scheduler") and hasattr(pipe, "pipe"):
        raise ValueError(
            f"pipe is a {type(pipe).__name__}, expected a diffusers pipeline; pass its attribute pipe, or use sample"
        )
    if not callable(pipe) or not hasattr(pipe, "__dict__"):
        raise ValueError(
            f"pipe is {pipe!r}, expected a diffusers pipeline; load one with DiffusionPipeline.from_pretrained"
        )


def _described(method: Method) -> str:
    """The name of a method of METHODS; the parts of any other."""
    name = next((name for name, known in METHODS.items() if known == method), None)
    return repr(replace(method, summary="")) if name is None else repr(name)


# The attributes of an AlignedPipeline; all others are read and set on its pipeline.
OWN = frozenset(
    "pipe reward method eta decode gradient_at chunk checkpointing heldout_reward track "
    "callback current_call rewards heldout trace".split()
)


class AlignedPipeline:
    """A guided pipeline, made by `align`. All other attributes are those of `pipe`.

    Attributes:
        pipe: the original pipeline.
        rewards, heldout, trace: those of the last call, as on its output.
        callback: called with a StepReport after each step, if it is set.
        current_call: the call that runs, or that failed; otherwise None.
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
        track: bool = True,
    ) -> None:
        _check_pipe(pipe)
        check_callable(reward)
        check_callable(heldout_reward)
        self.pipe, self.reward, self.method, self.eta, self.decode = pipe, reward, method, eta, decode
        self.gradient_at, self.chunk, self.checkpointing, self.heldout_reward = (
            gradient_at,
            check_chunk(chunk),
            checkpointing,
            heldout_reward,
        )
        self.track = track
        self.callback: Callable[[StepReport], Any] | None = None
        self.current_call: PipelineCall | None = None
        self.rewards: Tensor | None = None
        self.heldout: Tensor | None = None
        self.trace: Trace | None = None
        reason = reason_against(pipe)
        if reason is not None:
            raise ValueError(reason)
        check_method(pipe, method)
        check_eta(method, eta)
        check_guidance(method, reward, gradient_at)
        prediction_of(first_order(pipe.scheduler))

    def __repr__(self) -> str:
        reward = None if self.reward is None else reward_name(self.reward)
        return f"align({type(self.pipe).__name__}, reward={reward!r}, method={_described(self.method)}, eta={self.eta})"

    def __getattr__(self, name: str) -> Any:
        if name == "pipe":
            raise AttributeError(name)
        value = getattr(self.pipe, name)
        return self._returning_self(value) if getattr(value, "__self__", None) is self.pipe else value

    def _returning_self(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of the pipeline which returns the aligned pipeline where it returns the pipeline itself."""

        @functools.wraps(method)
        def forwarded(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return self if result is self.pipe else result

        return forwarded

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.pipe)})

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "method":
            value = find_method(value)
        if name in OWN or not hasattr(self.pipe, name):
            super().__setattr__(name, value)
        else:
            setattr(self.pipe, name, value)

    def __call__(
        self,
        *args: Any,
        seeds: Sequence[int] | None = None,
        reward_prompts: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> Any:
        """The pipeline's own call, with its own arguments.

        Args:
            seeds: one integer ≥ 0 per image. A seed gives the same image in any batch and with any number of
                particles. If None, they follow from `generator` (from each, if it is a list), or from torch's global
                generator, without advancing it.
            reward_prompts: the prompts that the rewards get, one per prompt of the call; those of `prompt` if None.
                With `prompt_embeds` alone they would be empty.
            eta: replaces `align`'s for this call.
            generator: as the pipeline documents; a list has one per image. The initial latents, and all else that the
                pipeline draws, are the same as without guidance. It excludes `seeds`.
            latents and all others: as the pipeline documents; latents are one per image, of unit variance.
        Returns:
            The pipeline's output, with the additional attributes `rewards` and `heldout` (image,), the final rewards,
            or None where there is no such reward, and `trace` (see `Trace`). With return_dict=False it is the
            pipeline's tuple, and these attributes are on the aligned pipeline only. If a callback sets
            `pipe._interrupt`, the images are those of the state so far, and the rewards are those of the last x̂_0.
        Raises:
            ValueError: for invalid input, in one sentence.
            RuntimeError: if another guided call of the same pipeline runs.
            FloatingPointError: if a reward, gradient or state is not finite; the message has the reward and the step.
        """
        with exclusive(self.pipe), torch.inference_mode(False):
            output, sampler = self._run(args, kwargs, seeds, reward_prompts)
        assert sampler is not None  # The pipeline has called prepare_latents.
        self.current_call = None
        self.rewards, self.heldout, self.trace = sampler.rewards, sampler.heldout_rewards, sampler.trace
        if not isinstance(output, tuple):
            output.rewards, output.heldout, output.trace = self.rewards, self.heldout, self.trace
        return output

    def _run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        seeds: Sequence[int] | None,
        reward_prompts: Sequence[str] | str | None,
    ) -> tuple[Any, SteppedSampler | None]:
        """The output and the sampler of a call.

        Not every pipeline has the number of images per prompt wherever it needs it. Where several particles fail before
        the first step, their prompts are repeated in its place.
        """
        self.current_call = call = PipelineCall(self, args, kwargs, seeds, reward_prompts)
        try:
            return call(), call.sampler
        except RefusedRows as refusal:
            if call.repeats_prompts:
                raise
            call.rewind()
            self.current_call = call = PipelineCall(self, args, kwargs, seeds, reward_prompts, repeats_prompts=True)
            try:
                return call(), call.sampler
            except RefusedRows:
                raise refusal from None
