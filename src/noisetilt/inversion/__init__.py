"""Noise inversion: the noise from which a one-step or few-step generator makes a given image, and edits of it."""

from .invert import invert
from .noise_files import read_noise
from .photos import read_photo
from .result import EditResult, InversionResult

__all__ = ["EditResult", "InversionResult", "invert", "read_noise", "read_photo"]
