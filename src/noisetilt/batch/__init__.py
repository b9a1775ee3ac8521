"""Many prompts: a table of rows, each made into an image by a worker, in this process or on Ray, and nothing lost.

`run_batch` is the command `noisetilt batch` from Python.
"""

from .run import ENGINES, Summary, run_batch
from .settings import Settings
from .sinks import Sink
from .table import Row, read_table

__all__ = ["ENGINES", "Row", "Settings", "Sink", "Summary", "read_table", "run_batch"]
