"""Rollover budget forcing: its count of network calls, and the states and gradients of redrawn candidates."""

import itertools
import math

import pytest
import torch

from noisetilt import Method, sample
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath, VPPath
from noisetilt.path.time_travel import TimeTravel
from noisetilt.proposals import Step, TrainingFreeGuidance, UniversalGuidance
from noisetilt.sampling import Engine, reverse_steps
from noisetilt.selection import RolloverBudget


def narrow_gaussian(variance=1e-4, size=8):
    """Data near zero, so that the standard deviation of x_t is that of its noise."""
    return GaussianModel(torch.zeros(3, size, size), torch.full((size, size), variance))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_count_of_calls_is_exact_for_rewards_of_any_precision(dtype):
    """bfloat16 has no 299 and no 301."""
    rbf = RolloverBudget(budget=302, initial_noises=1)
    state = rbf.open_step(torch.tensor([1.0, 1.0], dtype=dtype), None, 1, 1000)
    state = rbf.open_step(torch.tensor([1.0, 1.0], dtype=dtype), state, 2, 1000)
    state = rbf.update(state, torch.tensor([1]), torch.tensor([0.5], dtype=dtype))
    assert state.remaining.dtype == torch.int64 and state.remaining.tolist() == [301, 300]
    state = rbf.update(state, torch.tensor([1]), torch.tensor([0.5], dtype=dtype))
    assert state.remaining.tolist() == [301, 299]


def test_a_middle_step_ends_at_the_first_improvement_and_passes_its_calls_on():
    """A step without calls left uses its best candidate."""
    rbf = RolloverBudget(budget=3, initial_noises=1)
    state = rbf.open_step(torch.tensor([1.0, 1.0]), None, 1, 5)
    assert not rbf.wants_more(state).any()
    state = rbf.open_step(torch.tensor([2.0, 0.5]), state, 2, 5)
    assert rbf.wants_more(state).tolist() == [False, True]
    # 14 calls are left for four steps: 3, 4, 3 and 4.
    assert state.remaining.tolist() == [2, 2]
    for _ in range(2):
        state = rbf.update(state, torch.tensor([1]), torch.tensor([0.7]))
    assert not rbf.wants_more(state).any() and state.remaining.tolist() == [2, 0]
    state = rbf.open_step(torch.tensor([0.0, 0.0]), state, 3, 5)
    assert state.highest.tolist() == [2.0, 1.0] and state.remaining.tolist() == [5, 3]


def test_the_first_step_evaluates_the_initial_noises_and_the_last_uses_all_calls():
    rbf, steps = RolloverBudget(budget=4, initial_noises=6), 3
    state, drawn = None, []
    for number in range(1, steps + 1):
        state = rbf.open_step(torch.tensor([float(number)]), state, number, steps)
        drawn.append(1)
        while rbf.wants_more(state).any():
            state = rbf.update(state, torch.tensor([0]), torch.tensor([number + 0.5]))
            drawn[-1] += 1
    assert drawn == [6, 1, 5]


@pytest.mark.parametrize("budget, steps, first", [(20, 25, 25), (2, 4, 5), (1, 4, 1), (3, 1, 3), (100, 2, 25)])
def test_initial_noises_leave_each_other_step_one_call(budget, steps, first):
    rbf = RolloverBudget(budget)
    noises = rbf.open_step(torch.zeros(1), None, 1, steps).noises
    granted = [rbf._granted(number, steps, noises) for number in range(steps + 1)]
    assert granted[1] == first and granted[-1] == budget * steps
    assert all(after > before for before, after in itertools.pairwise(granted))


@pytest.mark.parametrize("initial_noises", [1, 25])
def test_a_run_uses_its_whole_budget_where_every_candidate_improves(initial_noises):
    """The first candidate of each step is better than all before, so that the middle steps leave their calls."""
    calls = itertools.count()
    rising = lambda images: torch.tensor([float(next(calls)) for _ in images])  # noqa: E731
    method = Method(selection=RolloverBudget(6, initial_noises))
    result = sample(narrow_gaussian(), [""], rising, method, steps=5)
    assert result.trace.nfe == 30
    first = min(initial_noises, 30 - 4)
    assert result.trace.rewards[:, 0].tolist() == [first - 1, first, first + 1, first + 2, 29]


def test_a_given_start_leaves_its_calls_to_the_other_steps_evenly():
    rbf, start = RolloverBudget(budget=4), torch.zeros(1)
    state = rbf.open_step(start, None, 1, 4, fixed=True)
    assert state.remaining.tolist() == [0]
    assert rbf.open_step(start, state, 2, 4).remaining.tolist() == [4]


def test_a_half_precision_reward_uses_the_budget_and_ends():
    """A reward that never improves takes all calls: 600 in two steps."""
    calls = []

    def constant(images):
        calls.append(len(images))
        assert len(calls) < 1000
        return images.new_zeros(len(images), dtype=torch.bfloat16)

    result = sample(narrow_gaussian(), [""], constant, Method(selection=RolloverBudget(300)), steps=2)
    assert result.trace.nfe == 600


class Recording(GaussianModel):
    """A model that records the time and the standard deviation of each row of its network calls."""

    def denoiser(self, prompts):
        self.calls, denoiser = [], super().denoiser(prompts)
        inner = denoiser.network

        def network(x_t, t, index):
            self.calls += [(t, row.std().item()) for row in x_t]
            return inner(x_t, t, index)

        denoiser.network = network
        return denoiser


def falling_reward():
    """A reward that is lower at each call, so that the budget forcing draws all its candidates."""
    values = itertools.count()
    return lambda images: -torch.tensor([float(next(values)) for _ in images])


@pytest.mark.parametrize("path", [FlowPath(), VPPath([0.95, 0.8, 0.5, 0.01])])
def test_candidates_have_the_noise_level_of_their_time_after_a_renoising(path):
    model = Recording(torch.zeros(3, 16, 16), torch.full((16, 16), 1e-4), path)
    method = Method(selection=RolloverBudget(3, initial_noises=3), times=TimeTravel(repeats=2))
    sample(model, ["", ""], falling_reward(), method, steps=4)
    assert len(model.calls) == 2 * 3 * reverse_steps(path, method.times.expand(path, path.grid(4)))
    for t, std in model.calls:
        expected = math.hypot(path.sigma(t), 1e-2 * path.alpha(t))
        assert std == pytest.approx(expected, rel=0.15)


def test_a_renoising_is_repeated_from_the_same_state():
    engine = Engine(Method(selection=RolloverBudget(2)), FlowPath(), (3, 32, 32), [0, 1, 2])
    x = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 32, 32)
    engine.renoise(x, 0.5, 0.75)
    drawn = engine.resample(torch.tensor([2, 1]))
    assert torch.allclose(drawn.mean((1, 2, 3)), torch.tensor([1.0, 0.5]), atol=0.06)
    assert torch.allclose(drawn.std((1, 2, 3)), torch.full((2,), (0.75**2 - 0.25**2) ** 0.5), rtol=0.05)


@pytest.mark.parametrize("proposal", [UniversalGuidance(), TrainingFreeGuidance(iterations=2)])
def test_redraws_use_the_reward_gradient_at_moved_predictions(proposal):
    """Images of a batch, of which some are drawn again, equal those made alone."""
    model = narrow_gaussian(1.0)
    method = Method(proposal=proposal, selection=RolloverBudget(3))

    def reward(images, prompts):
        wanted = torch.tensor([0.5 if prompt == "high" else -0.5 for prompt in prompts]).view(-1, 1, 1, 1)
        return -(images - wanted).square().mean((1, 2, 3))

    prompts, seeds = ["high", "low", "high"], [3, 4, 5]
    batch = sample(model, prompts, reward, method, 6, seeds)
    for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        alone = sample(model, [prompt], reward, method, 6, [seed])
        assert torch.allclose(batch.images[number], alone.images[0], atol=1e-5)
    assert batch.trace.nfe > 6


def test_the_gradient_of_some_rows_has_their_prompts():
    x = torch.arange(3.0)[:, None]
    scale = torch.tensor([[1.0], [10.0], [100.0]])
    step = Step(FlowPath(), 0.5, 0.4, x, x, x, 0.1, reward_gradient=lambda x_0, rows: scale[rows] * x_0)
    index = torch.tensor([2, 0])
    assert step.rows(index).reward_gradient(torch.tensor([[5.0], [7.0]])).tolist() == [[500.0], [7.0]]
    assert Step(FlowPath(), 0.5, 0.4, x, x, x, 0.1).rows(index).reward_gradient is None
