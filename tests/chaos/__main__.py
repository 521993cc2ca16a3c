"""``python -m tests.chaos --minutes 30``."""

import sys

from tests.chaos.run import main

sys.exit(main())
