"""`python -m noisetilt` is the command `noisetilt`."""

import sys

from .cli import main

sys.exit(main())
