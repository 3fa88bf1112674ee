"""`python -m vitruvian_batch` is the command `vitruvian-batch`."""

import sys

from .cli import main

sys.exit(main())
