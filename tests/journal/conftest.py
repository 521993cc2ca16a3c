import sys
from pathlib import Path

# The helpers are imported as ``tests.support``, also when these tests run alone.
sys.path.insert(0, str(Path(__file__).parents[2]))
