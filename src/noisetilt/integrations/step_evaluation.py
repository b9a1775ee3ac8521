"""Predictions, rewards and gradients for the engine, where the caller runs the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..initial_noise import ZerothOrderInitialNoise
from ..methods import Method
from ..path import Path
from ..sampling.check_inputs import GradientAt
from ..sampling.deterministic import chain_times
from ..sampling.engine import Engine, State
from ..sampling.rescaled_vjp import rescaled_vjp
from ..sampling.reward_evaluation import RewardEvaluator, chunks
from .chain import ChainResult, ChainStep, step_weights
from .vjp import VJP


@dataclass(frozen=True)
class Request:
    """A request for x̂_0 at the states x (rows, *event) and time t; t = None is the first time of the grid.

    `needs_vjp` says whether the gradient by x is needed.
    """

    x: Tensor
    t: float | None
    needs_vjp: bool


@dataclass(frozen=True)
class Response:
    """x̂_0 (rows, *event) at the state x_t that the network was given, and the VJP of x̂_0 by x_t if it was needed."""

    x_t: Tensor
    x0_hat: Tensor
    vjp: VJP | None = None


class StepEvaluation:
    """The functions by which the engine evaluates states.

    Args:
        engine: the engine.
        method, path: as in `SteppedSampler`.
        evaluator, heldout_evaluator: of the reward and, if there is one, of the held-out reward.
        index: of each row, (image · particle,) int64, by which the evaluators find its prompt.
        gradient_at, chunk: as in `SteppedSampler`.
        keep_images: whether states keep the images that were decoded for the reward.
        track: whether steps evaluate rewards that the method does not need.
    Attributes:
        grid: the times from noise to data; None until the caller knows them.
        request: sends a request to the caller and returns its response; set before the first evaluation.
        nfe: network evaluations so far, over all rows; the caller's network also takes those rows of which nothing is
            needed.
    """

    def __init__(
        self,
        engine: Engine,
        method: Method,
        path: Path,
        evaluator: RewardEvaluator,
        heldout_evaluator: RewardEvaluator | None,
        index: Tensor,
        gradient_at: GradientAt,
        chunk: int,
        keep_images: bool = False,
        track: bool = True,
    ) -> None:
        self.engine, self.method, self.path = engine, method, path
        self.evaluator, self.heldout_evaluator, self.index = evaluator, heldout_evaluator, index
        self.gradient_at, self.chunk, self.keep_images = gradient_at, chunk, keep_images
        needed = method.selection.needs_rewards or method.proposal.needs_gradient or heldout_evaluator is not None
        self.evaluates_steps = evaluator.reward is not None and (track or needed)
        self.grid: Sequence[float] | None = None
        self.request: Callable[[Request], Response] | None = None
        self.nfe = 0
        self._full_x: Tensor | None = None
        self._first_response: Response | None = None

    @property
    def needs_vjp(self) -> bool:
        """Whether steps that use the gradient take it through the network."""
        proposal = self.method.proposal
        at = getattr(proposal, "gradient_at", self.gradient_at)
        return proposal.needs_gradient and at == "x_t" and not self.evaluator.estimated

    def denoise_first(self, x: Tensor) -> None:
        """Makes the first request before the grid is known; the first evaluation of a step uses its response."""
        self._first_response = self._denoise(x, None, self.needs_vjp)

    def _denoise(self, x: Tensor, t: float | None, needs_vjp: bool) -> Response:
        self._full_x = x
        return self.request(Request(x, t, needs_vjp))

    def evaluate_initial_noise(
        self,
        x_T: Tensor,
        directions: Tensor | None = None,
        with_gradient: bool = True,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Rewards (rows,) and reward gradients (rows, *event), None without `with_gradient`, of initial noise.

        The reward is that of the image that steps with η = 0 make of the noise. With directions (rows, draws, *event)
        the gradient is estimated from rewards along them. With `rows` (row,) the tensors are of these rows, but the
        caller's network takes the full batch.
        """
        if rows is not None and len(rows) < len(self.index):
            full = None
            if directions is not None:
                full = directions.new_zeros(len(self.index), *directions.shape[1:]).index_copy(0, rows, directions)
            rewards, gradient = self.evaluate_initial_noise(self._full_batch(x_T, rows), full, with_gradient)
            return rewards[rows], None if gradient is None else gradient[rows]
        needs_vjp = with_gradient and self.gradient_at == "x_t"
        chain = self._run_chain(x_T, needs_vjp)
        t = self.grid[0]
        if not with_gradient:
            rewards, gradient = self.values(chain.x_0, self.index, t), None
        elif directions is None:
            rewards, gradient, _ = self._values_and_gradients(chain.x_0, self.index, None, t)
        else:
            rewards, gradient = self.values(chain.x_0, self.index, t), self._estimate(x_T, chain.x_0, directions, t)
        selects_images = getattr(self.method.initial, "selects_images", False)
        if selects_images and not self.evaluator.depends_on_images_only:
            rewards = self.image_values(chain.x_0, self.index, t)  # by which the best iterate is selected
        if needs_vjp:
            gradient = chain.vjp(gradient)
            self._require_finite(gradient, "gradient", t)
        return rewards, gradient

    def _run_chain(self, x: Tensor, needs_vjp: bool) -> ChainResult:
        """The images that the initial noise's `chain_steps` make of x_T."""
        count, steps = getattr(self.method.initial, "chain_steps", 1), []
        for number in range(count):
            times = None if self.grid is None else chain_times(self.grid, count)
            response = self._denoise(x, None if times is None else times[number], needs_vjp)
            self.nfe += len(x)
            times = chain_times(self.grid, count)
            x_t, x0_hat = response.x_t.detach(), response.x0_hat.detach()
            last = number == count - 1
            weights = (0.0, 1.0) if last else step_weights(self.path, times[number], times[number + 1])
            x = x0_hat if last else weights[0] * x_t + weights[1] * x0_hat
            steps.append(ChainStep(*weights, response.vjp))
        return ChainResult(x, steps)

    def _estimate(self, x_T: Tensor, x_0: Tensor, directions: Tensor, t: float) -> Tensor:
        """∇r at x_0 from reward values alone, up to a factor.

        Either the images are perturbed, or the noises that make them (see `Ascent`); the latter takes one batch of
        network calls per direction and sign.
        """
        initial = cast(ZerothOrderInitialNoise, self.method.initial)
        # The width of perturbed noise is that of noise of unit variance.
        width = initial.width * (self.path.prior_std(t) if initial.perturb == "noise" else 1.0)
        offsets = width * directions
        if initial.perturb == "image":
            parts = chunks(len(x_0), self.chunk)
            estimates = [
                self.evaluator.estimate(x_0[rows], self.index[rows], offsets[rows], self.chunk) for rows in parts
            ]
            return torch.cat(estimates) / (2 * width**2)
        total = torch.zeros_like(x_0)
        for offset in offsets.unbind(1):
            plus, minus = (self._run_chain(x_T + sign * offset, False).x_0 for sign in (1, -1))
            difference = self.values(plus, self.index, t) - self.values(minus, self.index, t)
            total += difference.to(x_0).view(-1, *[1] * (x_0.ndim - 1)) * (plus - minus)
        return total / (offsets.shape[1] * 4 * width**2)

    def evaluate(self, x: Tensor, rows: Tensor, t: float, offsets: Tensor | None, with_gradient: bool) -> State:
        """x_t, x̂_0, r(x̂_0) and, with `with_gradient`, the gradient of r for some rows of the batch."""
        needs_vjp = self.needs_vjp and with_gradient
        response, self._first_response = self._first_response, None
        if response is None:
            response = self._denoise(self._full_batch(x, rows), t, needs_vjp)
        self.nfe += len(self.index)
        x_t, x0_hat, index = response.x_t.detach()[rows], response.x0_hat.detach()[rows], self.index[rows]
        if not self.evaluates_steps:
            return State(x_t, x0_hat, None, None)
        if not with_gradient:
            if not self.keep_images:
                return State(x_t, x0_hat, self.values(x0_hat, index, t), None)
            rewards, images = self.evaluator.values_and_images(x0_hat, index, self.chunk)
            self._require_finite(rewards, "value", t)
            return State(x_t, x0_hat, rewards, None, images)
        differentiated, particles, images = rows, 1, None
        if self.engine.continues_from_best:
            rewards = self.values(x0_hat, index, t)
            differentiated, particles = self.engine.best(self.engine.by_image(rewards)), self.engine.particles
            offsets = None if offsets is None else offsets[differentiated]
            best = x0_hat[differentiated], index[differentiated]
            gradient = self._values_and_gradients(*best, offsets, t)[1]
        else:
            rewards, gradient, images = self._values_and_gradients(x0_hat, index, offsets, t)
        if needs_vjp:
            full = torch.zeros_like(response.x0_hat).index_copy(0, differentiated, gradient)
            gradient = rescaled_vjp(response.vjp, full)
            self._require_finite(gradient, "gradient", t)
            gradient = gradient[differentiated]
        gradient = gradient.repeat_interleave(particles, 0)
        return State(x_t, x0_hat, rewards, gradient, images)

    def _full_batch(self, x: Tensor, rows: Tensor) -> Tensor:
        """The last full batch with x in these rows; the caller's network takes batches of one size only."""
        return x if len(x) == len(self.index) else self._full_x.detach().index_copy(0, rows, x)

    def gradient_at_x0(self, x_0: Tensor, t: float, rows: Tensor | None = None) -> Tensor:
        """The gradient of the reward at x_0 of these rows; of all, (image · particle, *event), if None."""
        return self._values_and_gradients(x_0, self.index if rows is None else self.index[rows], None, t)[1]

    def values(self, x_0: Tensor, index: Tensor, t: float) -> Tensor:
        """The rewards (rows,) of x_0 (rows, *event) for the prompts at `index` (rows,), with the term of states."""
        rewards = self.evaluator.values(x_0, index, self.chunk)
        self._require_finite(rewards, "value", t)
        return rewards

    def image_values(self, x_0: Tensor, index: Tensor, t: float) -> Tensor:
        """The rewards (rows,) of the images of x_0 (rows, *event) for the prompts at `index` (rows,)."""
        rewards = self.evaluator.image_values(x_0, index, self.chunk)
        self._require_finite(rewards, "value", t)
        return rewards

    def images(self, x_0: Tensor, rows: Tensor, decoded: Tensor | None = None) -> Tensor:
        """The decoded images of some rows of x_0 (image · particle, *event), in [0, 1]; of `decoded`, the images of all
        rows, if they were kept."""
        rows = rows.to(x_0.device)
        return self.evaluator.images(x_0[rows], self.index[rows], self.chunk) if decoded is None else decoded[rows]

    def heldout_values(self, x_0: Tensor, rows: Tensor, t: float, decoded: Tensor | None = None) -> Tensor | None:
        """The held-out rewards of some rows of x_0 (image · particle, *event); None if there is no held-out reward."""
        if self.heldout_evaluator is None:
            return None
        rows = rows.to(x_0.device)
        if decoded is None:
            heldout = self.heldout_evaluator.image_values(x_0[rows], self.index[rows], self.chunk)
        else:
            heldout = self.heldout_evaluator.values_of_images(decoded[rows], self.index[rows], self.chunk)
        self.heldout_evaluator.require_finite(heldout, "value", self.engine.number, t)
        return heldout

    def _values_and_gradients(
        self, x_0: Tensor, index: Tensor, offsets: Tensor | None, t: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rewards, gradients and, with `keep_images`, the decoded images."""
        parts = (
            self.evaluator.value_and_gradient(
                x_0[part], index[part], None if offsets is None else offsets[part], chunk=self.chunk
            )
            for part in chunks(len(x_0), self.chunk)
        )
        kept = [part if self.keep_images else part._replace(images=None) for part in parts]
        rewards, gradient, images = (
            None if column[0] is None else torch.cat(column) for column in zip(*kept, strict=True)
        )
        self._require_finite(rewards, "value", t)
        self._require_finite(gradient, "gradient", t)
        return rewards, gradient, images

    def _require_finite(self, values: Tensor, what: str, t: float) -> None:
        self.evaluator.require_finite(values, what, self.engine.number + 1, t)
