"""Guided sampling inside other samplers: diffusers pipelines, and k-diffusion with ComfyUI."""
