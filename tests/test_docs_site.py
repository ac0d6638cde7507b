"""The documentation as a site: it has every page, no warning, and takes nothing from a network."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documentation import ROOT

DOCS = ROOT / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def load_hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages(entry):
    """Pages below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    below = entry.values() if isinstance(entry, dict) else entry
    return [page for each in below for page in pages(each)]


def test_every_page_is_in_the_navigation():
    listed = pages(CONFIG["nav"])
    assert len(listed) == len(set(listed))
    expected = {path.name for path in DOCS.glob("*.md")} | set(hooks.PAGE_OF.values())
    assert set(listed) == expected


@pytest.mark.parametrize(
    ("text", "folder", "expected"),
    [
        ("[a](docs/faq.md)", "", "[a](faq.md)"),
        ("[a](../CONTRIBUTING.md#commits)", "docs", "[a](contributing.md#commits)"),
        ("[README](../README.md)", "docs", "[README](index.md)"),
        ("[`examples/`](examples)", "", "[`examples/`](examples.md)"),
        ("[a](../examples/env_loop.py)", "docs", "[a](examples.md)"),
        ("[the code](../adsim/env.py)", "docs", "the code"),
        ("[faq.md](faq.md)", "docs", "[Questions](faq.md)"),
        ("![x](images/rl.png)", "docs", "![x](images/rl.png)"),
        ("[a](https://x.org/y.md) [b](#below)", "docs", "[a](https://x.org/y.md) [b](#below)"),
        ("```python\nx[0](faq)\n```", "docs", "```python\nx[0](faq)\n```"),
    ],
)
def test_links_lead_to_pages(text, folder, expected):
    assert hooks.rewritten(text, folder) == expected


def test_examples_are_a_page():
    text = hooks.examples_page()
    for path in (ROOT / "examples").glob("*.py"):
        assert f"\n## {path.name}\n" in text
        assert path.read_text().rstrip() in text


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: 2 s, in a process of its own."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr + done.stdout
    return folder


def test_site_is_built_without_warnings(site):
    for page in pages(CONFIG["nav"]):
        assert (site / Path(page).with_suffix(".html")).stat().st_size > 5_000
    index = (site / "index.html").read_text()
    assert "Bid in a loop" in index
    assert "<table>" in index
    search = (site / "search" / "search_index.js").read_text()
    assert "hindsight bound" in search


def test_site_takes_nothing_from_a_network(site):
    loaded = re.compile(
        r'<(?:script|img|iframe|source)[^>]*\bsrc="([^"]+)"|<link[^>]*rel="(?:stylesheet|preconnect)"'
        r'[^>]*href="([^"]+)"'
    )
    found = {
        target
        for path in site.glob("*.html")
        for pair in loaded.findall(path.read_text())
        for target in pair
        if target
    }
    assert len(found) > 5
    assert [target for target in found if "//" in target] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\(\s*[\"']?(?:https?:)?//", styles) == []


# Slow: a browser opens a page.
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_search_works_from_disk(site, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"]
    options += ["--virtual-time-budget=10000", "--enable-logging=stderr", "--dump-dom"]
    page = f"{(site / 'index.html').as_uri()}?q=refund"
    command = [str(CHROMIUM), *options, page]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert re.search(r"\b[1-9]\d* matching documents", done.stdout)
    assert "CONSOLE" not in done.stderr
