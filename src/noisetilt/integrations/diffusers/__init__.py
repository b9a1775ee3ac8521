"""`align`: any supported diffusers pipeline, guided by a reward."""

from .aligned_pipeline import AlignedPipeline, align

__all__ = ["AlignedPipeline", "align"]
