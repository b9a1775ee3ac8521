"""Evaluation of rewards: the chunk bounds the rows, draws included; errors name the reward, the step and the row."""

import math

import pytest
import torch

from noisetilt import METHODS, Method, optimize, sample
from noisetilt.initial_noise import Ascent
from noisetilt.models.denoiser import Denoiser
from noisetilt.path import FlowPath
from noisetilt.proposals import BlackBoxTilt, ManifoldTilt, MeanShift
from noisetilt.rewards import Reward
from noisetilt.sampling import Engine
from noisetilt.sampling.reward_evaluation import RewardEvaluator
from noisetilt.selection import Independent, RolloverBudget, Search


class Recorded:
    """A nonlinear generator that records the rows of its network calls and of its decoder."""

    path, shape = FlowPath(), (3, 4, 4)

    def __init__(self, frames=0):
        self.network_rows, self.decoded_rows, self.frames = [], [], frames

    def denoiser(self, prompts):
        def network(x_t, t, index):
            self.network_rows.append(len(x_t))
            return (0.5 * x_t).tanh()

        return Denoiser(self.path, network)

    def decode(self, x_0):
        self.decoded_rows.append(len(x_0))
        images = (1 + x_0) / 2
        return images[:, None].repeat(1, self.frames, 1, 1, 1) if self.frames else images


def bright(images):
    return images.square().mean((1, 2, 3))


def not_finite_in_row(row, value=math.nan):
    """A reward whose value is not finite for the row-th image that it is given since the last reset."""
    seen = [0]

    def reward(images):
        numbers = torch.arange(seen[0], seen[0] + len(images))
        seen[0] += len(images)
        return torch.where(numbers == row, value, bright(images))

    return reward


# The chunk


@pytest.mark.parametrize("chunk", [1, 2, 7, 15, 16, None])
def test_the_gradient_of_the_smoothed_reward_is_exact_in_any_parts(chunk):
    """It is that of log mean exp r over the draws, by x_0 and through a function that made x_0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    offsets = torch.randn(3, 5, 2, 5, generator=generator, dtype=torch.float64)
    rows = []

    def decode(x_0):
        rows.append(len(x_0))
        return x_0

    def reward(states, prompts):
        scale = torch.tensor([float(prompt) for prompt in prompts], dtype=torch.float64)
        return scale * states.pow(3).sum((1, 2))

    evaluator = RewardEvaluator(reward, decode, ["1", "-2", "0.5"])
    index = torch.tensor([2, 0, 1])
    scale = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64)[:, None]
    inputs = x.clone().requires_grad_()
    x_0 = inputs.sin()
    expected_value = (scale * (x_0[:, None] + offsets).pow(3).sum((2, 3))).logsumexp(1) - math.log(5)
    expected = torch.autograd.grad(expected_value.sum(), [x_0, inputs], retain_graph=True)
    assert torch.allclose(evaluator.smoothed(x_0, index, offsets, chunk), expected_value, rtol=1e-12)
    rows.clear()
    values, by_x0, _ = evaluator.value_and_gradient(x_0.detach(), index, offsets, chunk=chunk)
    assert torch.allclose(values, scale[:, 0] * x_0.detach().pow(3).sum((1, 2)), rtol=1e-12)
    assert torch.allclose(by_x0, expected[0], rtol=1e-10)
    assert rows == [3, *[min(chunk or 15, 15)] * (15 // (chunk or 15)), *([15 % chunk] if 15 % (chunk or 15) else [])]
    by_inputs = evaluator.value_and_gradient(x_0, index, offsets, inputs, chunk).gradient
    assert torch.allclose(by_inputs, expected[1], rtol=1e-10)


METHODS_WITH_DRAWS = {
    "lgd": METHODS["lgd"].replace(draws=5, scale=5.0),
    "tfg": METHODS["tfg"].replace(draws=5, iterations=1),
    "ntrk-black-box": METHODS["ntrk-black-box"].replace(draws=5),
    "ascent of noise": Method(initial=Ascent(iterations=2, draws=5)),
    "ascent of images": Method(initial=Ascent(iterations=2, draws=5, perturb="image")),
}


@pytest.mark.parametrize("name", METHODS_WITH_DRAWS)
def test_the_chunk_bounds_the_rows_with_draws(name):
    """The images are those of one large chunk."""
    small, large = Recorded(), Recorded()
    made = [
        sample(model, [""] * 3, bright, METHODS_WITH_DRAWS[name], 4, chunk=chunk)
        for model, chunk in ((small, 2), (large, 1000))
    ]
    assert max(small.network_rows) == 2 and max(small.decoded_rows) == 2
    assert max(large.decoded_rows) == 15
    assert sum(small.network_rows) == sum(large.network_rows)
    assert torch.allclose(made[0].images, made[1].images, atol=1e-5)
    assert made[0].trace.nfe == made[1].trace.nfe


@pytest.mark.parametrize("perturb", ["noise", "image"])
def test_the_chunk_bounds_the_rows_of_estimated_gradients_in_optimize(perturb):
    small, large = Recorded(), Recorded()
    method = Method(initial=Ascent(draws=5, perturb=perturb))
    made = [optimize(model, [""] * 3, bright, method, 3, chunk=chunk) for model, chunk in ((small, 1), (large, 1000))]
    assert max(small.network_rows) == 1 and max(small.decoded_rows) == 1
    assert torch.allclose(made[0].noise, made[1].noise, atol=1e-5)
    assert torch.equal(made[0].trace.nfe, made[1].trace.nfe)


def test_draws_that_fit_in_the_chunk_are_evaluated_at_once():
    """In 4 steps of which the first is unguided: 3 rows at x̂_0 in each, 15 perturbed rows in each guided step."""
    model = Recorded()
    sample(model, [""] * 3, bright, METHODS_WITH_DRAWS["lgd"], 4)
    assert sorted(model.decoded_rows) == [3] * 5 + [15] * 3


# Values that are not finite


def test_errors_name_the_row_of_the_batch():
    with pytest.raises(FloatingPointError, match=r"step 1 \(t = 1, row 20\)"):
        sample(Recorded(), [""] * 21, not_finite_in_row(20), "dps", 3)
    with pytest.raises(FloatingPointError, match=r"iteration 0 \(t = 1, row 20\)"):
        optimize(Recorded(), [""] * 21, not_finite_in_row(20), "gper", 3)


def test_errors_name_the_row_of_the_batch_where_only_some_rows_are_evaluated():
    """Candidates of a step are drawn again for some images; row 1 of 3 is the only one that does not improve."""

    calls = []

    def reward(images):
        calls.append(len(images))
        number = float(len(calls))
        if len(images) == 1:
            return torch.tensor([math.nan])
        return torch.tensor([number, -number, number])

    with pytest.raises(FloatingPointError, match=r"step 2 \(t = 0.6667, row 1\)"):
        sample(Recorded(), [""] * 3, reward, Method(selection=RolloverBudget(2, initial_noises=1)), 3)
    assert calls == [3, 3, 1]


def not_finite_gradient(images, prompts):
    """Of the images whose prompt is "b"."""
    zeros = [(x - x.detach()).sqrt() if prompt == "b" else 0 * x for x, prompt in zip(images, prompts, strict=True)]
    return bright(images + torch.stack(zeros))


@pytest.mark.parametrize("selection", [Search(3), Independent(3)])
def test_errors_name_the_row_of_a_gradient_of_the_best_candidates(selection):
    """Two images of three candidates each: rows 3 to 5 are those of the second."""
    method = Method(proposal=ManifoldTilt(0.2), selection=selection)
    with pytest.raises(FloatingPointError, match=r"gradient of .* \(t = 0.6667, row [345]\)"):
        sample(Recorded(), ["a", "b"], not_finite_gradient, method, 3)


@pytest.mark.parametrize("call", [1, 2, 4])
def test_sample_refuses_a_heldout_reward_that_is_not_finite(call):
    """At a step, or of the final images, which DPS moves away from the last prediction."""
    step, t = {1: (1, "1"), 2: (2, "0.6667"), 4: (3, "0")}[call]
    heldout = Reward("held", not_finite_in_row(2 * call - 1))
    with pytest.raises(
        FloatingPointError, match=rf"held-out reward 'held' is not finite at step {step} \(t = {t}, row 1"
    ):
        sample(Recorded(), [""] * 2, bright, "dps", 3, heldout=heldout)


@pytest.mark.parametrize("patience", [0, 2])
def test_optimize_refuses_a_heldout_reward_that_is_not_finite(patience):
    heldout = Reward("held", not_finite_in_row(2 * 3 + 1))
    with pytest.raises(
        FloatingPointError, match=r"held-out reward 'held' is not finite at iteration 3 \(t = 1, row 1\)"
    ):
        optimize(Recorded(), [""] * 2, bright, "gper", 5, heldout=heldout, patience=patience)


def test_optimize_takes_a_heldout_reward_of_images_for_videos():
    model = Recorded(frames=2)
    result = optimize(
        model, [""] * 2, bright, "gper", 3, heldout=Reward("red", lambda images: images[:, 0].mean((1, 2)))
    )
    assert result.images.shape == (2, 2, 3, 4, 4)
    assert torch.allclose(result.heldout, result.images[:, :, 0].mean((1, 2, 3)))


# What is decoded and evaluated


def calls_of(method, particles=1, steps=3, **options):
    """The rows that the decoder, the reward and the held-out reward were given in `sample`, and the result."""
    model, rows = Recorded(), {"reward": 0, "heldout": 0}

    def counted(name):
        def reward(images):
            rows[name] += len(images)
            return bright(images)

        return reward

    heldout = counted("heldout") if options.pop("heldout", False) else None
    method = METHODS[method] if isinstance(method, str) else method
    method = method.replace(particles=particles) if particles > 1 else method
    result = sample(model, ["", ""], counted("reward"), method, steps, heldout=heldout, **options)
    return {"decoder": sum(model.decoded_rows), **rows}, result


@pytest.mark.parametrize("name", ["base", "dps", "ntrk", "mpgd", "cns"])
def test_a_heldout_reward_and_a_callback_take_the_images_of_the_reward(name):
    shown = []
    plain, _ = calls_of(name)
    both, result = calls_of(name, heldout=True, callback=lambda report: shown.append(report.images()))
    assert both["decoder"] == plain["decoder"] and both["reward"] == plain["reward"]
    assert len(shown) == 3 and not shown[0].requires_grad
    torch.testing.assert_close(bright(shown[-1]), result.trace.heldout[-1])


@pytest.mark.parametrize("name", ["lgd", "tfg", "ntrk-black-box"])
def test_smoothed_rewards_are_evaluated_at_the_prediction_only_where_it_is_recorded(name):
    method = METHODS[name].replace(draws=2)
    tracked, of_tracked = calls_of(method)
    plain, of_plain = calls_of(method, track=False)
    assert torch.equal(of_plain.images, of_tracked.images) and torch.equal(of_plain.rewards, of_tracked.rewards)
    assert of_tracked.trace.rewards.shape == (3, 2) and not of_plain.trace.rewards.numel()
    assert plain["reward"] <= tracked["reward"] - 2 * 2 and plain["decoder"] == plain["reward"]
    assert torch.equal(of_plain.trace.gradient_norm, of_tracked.trace.gradient_norm)


@pytest.mark.parametrize("name", ["lgd", "tfg", "ntrk-black-box"])
def test_smoothed_rewards_that_are_not_finite_are_refused_without_a_trace(name):
    broken = Reward("broken", lambda images, prompts: torch.where(images[:, 0, 0, 0] > -9, math.nan, bright(images)))
    with pytest.raises(FloatingPointError, match=r"(value|gradient) of the reward 'broken' is not finite at step 2"):
        sample(Recorded(), [""], broken, METHODS[name], 3, track=False)


SEEDS = [2, 3]


@pytest.mark.parametrize("name", ["base", "ntrk", "best-of-n", "svdd", "ntrk-svdd", "fk", "das", "rbf"])
def test_final_images_that_are_the_last_predictions_are_not_evaluated_again(name, monkeypatch):
    """Of several particles the winner alone is decoded again, which is not the first one of both images."""
    rows_of, winners = Engine.rows_of, []
    monkeypatch.setattr(Engine, "rows_of", lambda self, chosen: (winners.append(chosen), rows_of(self, chosen))[1])
    particles = 3 if METHODS[name].selection.particles > 1 else 1
    calls, result = calls_of(name, particles, heldout=True, seeds=SEEDS)
    assert particles == 1 or (winners[-1] != 0).any()
    assert calls["reward"] == result.trace.nfe * 2
    assert calls["decoder"] == calls["reward"] + (particles > 1) * (3 + 1) * 2
    assert calls["heldout"] == 3 * 2
    torch.testing.assert_close(bright(result.images), result.rewards)
    torch.testing.assert_close(result.heldout, result.rewards)


def test_equal_final_particles_are_evaluated_once():
    """DPS moves them in the last step, all by the same gradient."""
    search = Method(proposal=MeanShift(), selection=Search(particles=4))
    calls, result = calls_of(search, 1)
    assert calls == {"decoder": (3 * 4 + 1) * 2, "reward": (3 * 4 + 1) * 2, "heldout": 0}
    torch.testing.assert_close(bright(result.images), result.rewards)


def test_the_best_of_different_final_particles_is_returned():
    calls, result = calls_of(Method(proposal=MeanShift(), selection=Independent(particles=4)), 1)
    assert calls["reward"] == (3 * 4 + 4) * 2 and calls["decoder"] == (3 * 4 + 4 + 1) * 2
    torch.testing.assert_close(bright(result.images), result.rewards)
    assert (result.rewards >= sample(Recorded(), ["", ""], bright, "dps", 3).rewards).all()


def test_best_of_n_without_a_trace_evaluates_the_final_images_alone():
    calls, result = calls_of("best-of-n", 3, track=False)
    assert calls["reward"] == 3 * 2 and calls["decoder"] == (3 + 1) * 2
    torch.testing.assert_close(bright(result.images), result.rewards)


class AllGradients(Search):
    """A search that computes the gradients of all candidates."""

    continues_from_best = False


@pytest.mark.parametrize("proposal, evaluations", [(ManifoldTilt(0.2), 1), (BlackBoxTilt(0.2, draws=2), 4)])
def test_a_search_differentiates_the_best_candidate_alone(proposal, evaluations):
    """One of three steps has signal and noise."""
    found, result = calls_of(Method(proposal=proposal, selection=Search(particles=4)), 1)
    all_of_them, expected = calls_of(Method(proposal=proposal, selection=AllGradients(particles=4)), 1)
    torch.testing.assert_close(result.images, expected.images)
    torch.testing.assert_close(result.trace.rewards, expected.trace.rewards)
    assert found["reward"] == (3 * 4 + evaluations) * 2 and result.trace.nfe == expected.trace.nfe == 12
    assert all_of_them["reward"] >= 3 * 4 * 2 + (evaluations - 1) * 4 * 2
