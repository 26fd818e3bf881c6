"""What the pages lead to is there: files, and headings in them."""

import re
from itertools import product
from pathlib import Path

import pytest

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    titles = _HEADING.findall(_CODE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere inside the repository."""
    found = []
    for link in _LINK.findall(_CODE.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def test_every_link_leads_to_a_file_and_a_heading(repository: Path) -> None:
    pages = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
    assert {page.name: broken(page) for page in pages if broken(page)} == {}


@pytest.mark.parametrize("page", ["packing.md", "mixtures.md", "loading-s3.md"])
def test_each_page_about_loading_is_reached_from_the_first(repository: Path, page: str) -> None:
    assert f"]({page}" in (repository / "docs/loading.md").read_text()


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    links = product(["", "page.md", "other.md"], ["", "#a-heading-of-it", "#none"])
    page.write_text("# A heading, of `it`\n" + "\n".join(f"[x]({a}{b})" for a, b in links if a + b))
    assert broken(page) == ["#none", "page.md#none", "other.md", "other.md#a-heading-of-it",
                            "other.md#none"]  # fmt: skip
