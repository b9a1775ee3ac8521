"""The engine inside other people's samplers: diffusers pipelines and k-diffusion."""
