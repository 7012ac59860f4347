"""The pages: what their examples print, and that what they name is there."""

import doctest
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", [p for p in PAGES if ">>> " in p.read_text()], ids=lambda p: p.name)
def test_examples_print_what_the_page_says(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried and not failed


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in [*re.findall(r"\]\(([^)#\s]+)[^)]*\)", text), *re.findall(r'<img src="([^"]+)"', text)]:
        if not target.startswith(("http:", "https:")):
            assert os.path.exists(page.parent / target), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in ("verification.md",)], ids=lambda p: p.name)
def test_files_that_a_page_names_are_there(page):
    named = set(re.findall(r"`((?:rtl|sw|verif|fpga|tests|docs|examples)/[\w/.-]+\.\w+)`", page.read_text()))
    missing = sorted(name for name in named if not (ROOT / name).exists() and "NAME" not in name)
    assert not missing, f"{page.name} names files that are not there: {', '.join(missing)}"
