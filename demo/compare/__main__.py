"""``python -m demo.compare``: this part of ``make bench`` alone."""

import sys

from demo.compare.run import main

sys.exit(main())
