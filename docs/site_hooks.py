"""What makes a site of pages that also read well as plain files in the repository.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages, and so do the scripts of examples/. Links
that lead out of docs/ lead to these pages; where there is none (a source file), only their text
stays: there is no address that a copy of the site could rely on. A link whose text is the name of
a page's file gets the title of the page.
"""

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGE_OF = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples": "examples.md",
}
"""Files of the repository, relative to its root, to pages of the site."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


def rewritten(text: str, folder: str) -> str:
    """The text of a page with links that hold on the site.

    Args:
        text: Markdown; what stands in fenced blocks is left as it is.
        folder: of the file in the repository, relative to its root: "" or "docs".
    """
    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(lambda link: _target(link, folder), part) for part in parts[::2]]
    return "".join(parts)


def _target(link: re.Match[str], folder: str) -> str:
    mark, label, path, anchor = link[1], link[2], link[3], link[4] or ""
    if not path or "://" in path or path.startswith("mailto:"):
        return link[0]
    source = posixpath.normpath(posixpath.join(folder, path))
    if source.startswith("docs/"):
        page = source.removeprefix("docs/")
    elif source.split("/")[0] == "examples" or source in PAGE_OF:
        page = PAGE_OF[source.split("/")[0]]
    else:
        return label
    if label == path:
        label = _title(source) or label
    return f"{mark}[{label}]({page}{anchor})"


def _title(source: str) -> str:
    """The heading of a Markdown file, relative to the root of the repository; "" without one."""
    path = ROOT / source
    if path.suffix != ".md" or not path.is_file():
        return ""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else ""


def examples_page() -> str:
    """A page with the scripts of examples/: their first line, how to run them, their source."""
    sections = [
        "# Examples",
        "Scripts of the folder `examples/`: complete, and done in little time; with `--help` they "
        "say what they take.",
    ]
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(source)) or path.stem).splitlines()[0]
        sections += [
            f"## {path.name}",
            title,
            f"    .venv/bin/python examples/{path.name}",
            f"```python\n{source.rstrip()}\n```",
        ]
    return "\n\n".join(sections) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are no files of docs/."""
    for source, page in PAGE_OF.items():
        path = ROOT / source
        text = examples_page() if path.is_dir() else rewritten(path.read_text("utf-8"), "")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page of docs/."""
    return markdown if page.file.generated_by else rewritten(markdown, "docs")
