"""`python -m noisetilt` is the command `noisetilt`."""

import sys

from .cli.main import main

sys.exit(main())
