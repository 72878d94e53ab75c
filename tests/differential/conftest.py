"""The reference reader and the kit for broken files are imported from the specification."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "spec" / "reference"))
