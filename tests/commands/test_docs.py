"""The page about the command line is what the commands say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_is_what_the_commands_say() -> None:
    """docs/cli.md is the help of today; `python docs/generate_cli.py` writes it anew."""
    code = f"import runpy, sys; sys.stdout.write(runpy.run_path({str(DOCS / 'generate_cli.py')!r})['page']())"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (DOCS / "cli.md").read_text("utf-8") == said.stdout
