"""Makes the benches importable: a folder of tests has the name of their package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
