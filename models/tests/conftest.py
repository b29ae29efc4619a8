import sys
from pathlib import Path

# The builders are run from their folder and are not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
