"""Tests of the pages in docs/ and of README.md: their code runs and their links lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from kits.doc_pages import Page

import perdure

ROOT = Path(perdure.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("C*.md"))]
each_page = pytest.mark.parametrize(
    "page", [Page(path) for path in PAGES], ids=[str(path.relative_to(ROOT)) for path in PAGES]
)


@each_page
def test_code_compiles(page: Page) -> None:
    """Each Python block is Python, also those that are not run."""
    for block in page.blocks:
        if block.language == "python":
            compile("\n" * (block.line - 1) + block.text, page.path.name, "exec")


@pytest.mark.parametrize(
    "page",
    [Page(path) for path in PAGES if Page(path).script],
    ids=[str(path.relative_to(ROOT)) for path in PAGES if Page(path).script],
)
def test_code_runs(page: Page, tmp_path: Path, temporal_address: str) -> None:
    """A page's Python blocks, run from top to bottom as one script in an empty folder, come to their end."""
    page.run(tmp_path, temporal_address=temporal_address)


@each_page
def test_links(page: Page) -> None:
    """Each relative link leads to a file, and to a heading if it names one."""
    assert [] == page.dead_links()


# The harness itself

PAGE = """\
# A page
See [the end](#the-end), [itself](page.md#a-page), [nothing](nothing.md), [no heading](#no-heading), [afar](https://x.y/z).

```python
from saved import n
```

~~~python no-run
await something
~~~

```python file=saved.py
n = 40
```

  ```python
  n += 2  # [not a link](gone.md)
  print(n)
  ```

## The end
"""


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """A page with every kind of block and link."""
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return Page(path)


def test_blocks_share_a_namespace(page: Page, tmp_path: Path) -> None:
    """Later blocks see what earlier ones defined, and saved ones can be imported."""
    assert "42\n" == page.run(tmp_path, temporal_address="127.0.0.1:1")


def test_failure_names_the_line(page: Page, tmp_path: Path) -> None:
    """A block that fails is reported by its line in the page."""
    page.path.write_text(PAGE.replace("n += 2", "n += '2'"))

    with pytest.raises(AssertionError, match="line 17"):
        page.run(tmp_path, temporal_address="127.0.0.1:1")


def test_dead_links(page: Page) -> None:
    """Missing files and headings are found; addresses elsewhere and links in code are left alone."""
    assert ["nothing.md", "#no-heading"] == page.dead_links()


def test_open_block(page: Page) -> None:
    """A block that does not end is an error."""
    page.path.write_text("```python\nx = 1\n")

    with pytest.raises(AssertionError, match="line 2"):
        _ = page.blocks
