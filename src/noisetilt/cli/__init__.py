"""The command `noisetilt`.

`main` reads the arguments and runs a command. `arguments` has the parser of each command and imports nothing heavy, so
that `noisetilt --help` answers at once. The other modules do the work, one module per command; they are imported when
their command runs.
"""

from .main import main

__all__ = ["main"]
