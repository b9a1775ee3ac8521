"""The random numbers of a run: one independent stream for each particle of each image."""

import numpy as np
import pytest
import torch

from noisetilt.sampling.rng import PerImageRNG


def stream(seed, number):
    entropy = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy >> 1))


def test_the_streams_of_images_and_particles_are_independent():
    rng = PerImageRNG([3, 4, 5], 3, (64,))
    drawn = torch.cat([rng.normal().flatten(0, 1) for _ in range(2)])
    correlation = torch.corrcoef(drawn) - torch.eye(18)
    assert correlation.abs().max() < 0.5
    assert (torch.pdist(drawn) > 1).all()


def test_uniform_numbers_have_a_stream_of_their_own():
    rng = PerImageRNG([3, 4], 2, (8,))
    uniform = rng.uniform()
    for seed, row in zip((3, 4), uniform, strict=True):
        assert torch.equal(row, torch.rand(2, generator=stream(seed, 0)))
        assert not torch.allclose(row, torch.rand(2, generator=stream(seed, 1)))
    assert torch.equal(rng.normal(), PerImageRNG([3, 4], 2, (8,)).normal())


@pytest.mark.parametrize("particles", [1, 4])
def test_a_particle_has_the_noise_of_its_stream(particles):
    noise = PerImageRNG([7], particles, (8,)).normal()[0]
    for particle in range(particles):
        assert torch.equal(noise[particle], torch.randn(8, generator=stream(7, 1 + particle)))
