"""`align`: guides a diffusers pipeline by a reward."""

from .aligned_pipeline import AlignedPipeline, align

__all__ = ["AlignedPipeline", "align"]
