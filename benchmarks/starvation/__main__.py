"""`python -m benchmarks.starvation`."""

import sys

from benchmarks.starvation.command import main

sys.exit(main())
