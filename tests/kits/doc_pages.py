"""What the Markdown pages say: their code blocks, links and headings.

A page's ```python blocks together are one script, run from top to bottom. Words after the language change that:

    ```python no-run          is only compiled
    ```python file=desk.py    is saved as desk.py before the script runs (any language)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>[^`]*)$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\]|!\[[^\]]*\]\([^)]*\))*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the line that its text begins on, its language, the words after that, its text."""

    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that it is saved as."""
        return next((mark.removeprefix("file=") for mark in self.marks if mark.startswith("file=")), None)

    @property
    def runs(self) -> bool:
        """Whether it is part of the page's script."""
        return self.language == "python" and not self.file and "no-run" not in self.marks


@dataclass(frozen=True)
class Page:
    """A Markdown page."""

    path: Path

    @property
    def blocks(self) -> list[Block]:
        """The fenced blocks, in order."""
        return [part for part in self._parts() if isinstance(part, Block)]

    @property
    def prose(self) -> str:
        """The page without its blocks and inline code."""
        lines = [part for part in self._parts() if isinstance(part, str)]
        return re.sub(r"`[^`\n]*`", "``", "\n".join(lines))

    @property
    def script(self) -> str:
        """The blocks that run, each on the lines that it has in the page, so that a traceback points there."""
        script = ""
        for block in self.blocks:
            if block.runs:
                script += "\n" * (block.line - 1 - script.count("\n")) + block.text
        return script

    @property
    def anchors(self) -> set[str]:
        """What `#...` may point to: the headings, in GitHub's spelling."""
        headings = [part for part in self._parts() if isinstance(part, str) and re.match(r"#{1,6} ", part)]
        slugs = [re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-") for heading in headings]
        seen: dict[str, int] = {}
        for index, slug in enumerate(slugs):
            count = seen[slug] = seen.get(slug, -1) + 1
            slugs[index] = f"{slug}-{count}" if count else slug
        return set(slugs)

    def dead_links(self) -> list[str]:
        """Return the relative links that lead nowhere, from a folder, file or heading that is not there."""
        return [link for link in _LINK.findall(self.prose) if not _SCHEME.match(link) and not self._leads_somewhere(link)]

    def run(self, folder: Path, *, temporal_address: str, seconds: float = 100) -> str:
        """Run the page's script in FOLDER and return what it printed. Raises `AssertionError` with that if it fails."""
        for block in self.blocks:
            if block.file:
                (folder / PurePosixPath(block.file)).parent.mkdir(parents=True, exist_ok=True)
                (folder / PurePosixPath(block.file)).write_text(block.text)
        script = folder / f"{re.sub(r'[^a-z0-9]', '_', self.path.stem.lower())}_page.py"
        script.write_text(self.script)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
        environment |= {"TEMPORAL_ADDRESS": temporal_address, "PERDURE_HOME": str(folder / "home")}
        done = subprocess.run(
            [sys.executable, script.name],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert 0 == done.returncode, (
            f"{self.path.name} ended with {done.returncode}; line numbers are the page's:\n{done.stdout}"
        )
        return done.stdout

    def _parts(self) -> Iterator[Block | str]:
        fence: re.Match[str] | None = None
        start, body = 0, ""
        for number, line in enumerate(self.path.read_text().splitlines(), start=1):
            match = _FENCE.match(line)
            if fence is None:
                if match:
                    fence, start, body = match, number + 1, ""
                else:
                    yield line
            elif match and match["ticks"].startswith(fence["ticks"]) and not match["info"].strip():
                language, *marks = fence["info"].split() or [""]
                yield Block(start, language, tuple(marks), body)
                fence = None
            else:
                body += line.removeprefix(fence["indent"]) + "\n"
        assert fence is None, f"{self.path}: the block that begins at line {start} does not end"

    def _leads_somewhere(self, link: str) -> bool:
        name, _, anchor = link.partition("#")
        target = self.path.parent / name if name else self.path
        if not target.exists():
            return False
        return not anchor or target.suffix != ".md" or anchor in Page(target).anchors
