"""Images, plots and text tables for the command line, the benchmark and the recipes."""

from .pictures import encode_picture, file_stem, grid, save_animation, save_image, save_picture, to_image
from .tables import table

__all__ = [
    "encode_picture",
    "file_stem",
    "grid",
    "save_animation",
    "save_image",
    "save_picture",
    "table",
    "to_image",
]
