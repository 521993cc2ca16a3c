"""``python -m bench.compare``: this part of ``make bench`` alone."""

import sys

from bench.compare.run import main

sys.exit(main())
