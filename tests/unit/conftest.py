"""The codec's reference is imported from the specification."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "spec" / "reference"))
