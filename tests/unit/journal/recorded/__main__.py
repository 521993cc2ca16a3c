"""Write the journals of the present format: ``python -m tests.unit.journal.recorded [STAGE ...]``."""

import sys
import tempfile
from pathlib import Path

from tests.unit.journal.recorded import HERE, STAGES, record

from baton.schema import SCHEMA_VERSION

folder = HERE / str(SCHEMA_VERSION)
folder.mkdir(exist_ok=True)
for name in sys.argv[1:] or STAGES:
    with tempfile.TemporaryDirectory() as root:
        (folder / f"{name}.sql").write_text(record(STAGES[name], Path(root)))
