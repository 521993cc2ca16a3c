import sys
from pathlib import Path

# The helpers are imported as ``support``, also when these tests run alone.
sys.path.insert(0, str(Path(__file__).parents[1]))
