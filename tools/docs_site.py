"""Pages of the documentation site that are made when it is built, and links that leave docs/. A hook of mkdocs.yml.

* CONTRIBUTING, SECURITY and CHANGELOG lie at the top of the tree, where hosting sites look for them, and are pages too.
* Every program under examples/ is shown on one page, as it is.
* Every package has a page of its definitions. The page of the public names says in which order they are shown,
  `<!-- api: Policy Observation -->`; where each is defined stands in `pi0_edge/__init__.py`.
* A page may link to a file of the tree: the site carries a copy of it as text. A link to a folder is shown as its path.
* State diagrams in the notation of Mermaid are drawn here, because its program would have to come from the network.
"""

from __future__ import annotations

import ast
import logging
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
from state_diagram import draw

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.docs_site")

ROOT = Path(__file__).resolve().parents[1]
PROJECT_PAGES = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}
EXAMPLES_PAGE = "start/examples.md"
PACKAGES_PAGE = "reference/packages.md"
API_PAGE = "reference/api.md"
LANGUAGES = {".py": "python", ".cpp": "cpp", ".txt": "cmake", ".yaml": "yaml", ".sh": "bash"}
RAW = {".html", ".txt", ".png", ".svg"}
"""Kinds of files that a browser shows by itself; others get the ending .txt."""

_LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_MERMAID = re.compile(r"```mermaid\n(stateDiagram-v2\n.*?)```", re.DOTALL)
_FETCHED = re.compile(r"""<(?:script|img|iframe|link rel="stylesheet")[^>]*(?:src|href)="(https?://[^"]*)""")
_API = re.compile(r"<!-- api: ([^>]*) -->")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here, and the files that pages link to."""
    from mkdocs.structure.files import File

    pages = {page: _at(page, (ROOT / source).read_text()) for source, page in PROJECT_PAGES.items()}
    pages[EXAMPLES_PAGE] = examples_page()
    pages |= package_pages()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    linked = {
        target
        for file in files.documentation_pages()
        for target in _outside(file.src_uri, file.content_string)
        if (ROOT / target).is_file()
    }
    for target in sorted(linked):
        files.append(File.generated(config, _site_path(target), content=(ROOT / target).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draws state diagrams, and turns links out of docs/ into links to what the site carries."""
    here = page.file.src_uri
    if here == API_PAGE:
        markdown = public_names(markdown)
    markdown = _MERMAID.sub(lambda found: draw(found[1]), markdown)
    pieces = _FENCE.split(markdown)
    return "".join(piece if piece.startswith("```") else _relink(here, piece) for piece in pieces)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warns of what a page would fetch from the network when it is read."""
    for found in _FETCHED.finditer(output):
        log.warning(f"{page.file.src_uri} fetches {found[1]}")
    return output


def public_names(markdown: str) -> str:
    """The page with the documentation of every public name in the place of the marks.

    A public name that no mark names is a warning, and so is a name that is not public.
    """
    defined = _public_modules()
    shown = {name for found in _API.finditer(markdown) for name in found[1].split()}
    for name in sorted(defined.keys() - shown):
        log.warning(f"docs/{API_PAGE} does not show the public name {name}")
    for name in sorted(shown - defined.keys()):
        log.warning(f"docs/{API_PAGE} shows {name}, which pi0_edge does not export")

    def documented(found: re.Match[str]) -> str:
        names = [name for name in found[1].split() if name in defined]
        return "\n\n".join(f"::: {defined[name]}.{name}\n    options: {{heading_level: 3}}" for name in names)

    return _API.sub(documented, markdown)


def _public_modules() -> dict[str, str]:
    """Where each public name is defined, as `pi0_edge/__init__.py` says to type checkers."""
    tree = ast.parse((ROOT / "pi0_edge" / "__init__.py").read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module for node in imports if node.module for alias in node.names}


def examples_page() -> str:
    """Every file of examples/, with the first paragraph of its docstring as text."""
    text = ["# Examples", "", "Everything under `examples/`, as it is. The tests run them.", ""]
    for path in _tracked("examples"):
        if path.suffix not in LANGUAGES or path.name in ("__init__.py", "CMakeLists.txt"):
            continue
        source = path.read_text()
        said = ast.get_docstring(ast.parse(source)) if path.suffix == ".py" else None
        name = path.relative_to(ROOT)
        text += [f"## `{name}`", "", (said or "").partition("\n\n")[0], ""]
        text += [f"````{LANGUAGES[path.suffix]}", source.rstrip(), "````", ""]
    return "\n".join(text)


def package_pages() -> dict[str, str]:
    """A page of every package with what its modules define, and one page that lists them."""
    pages, rows = {}, []
    for init in _tracked("pi0_edge", "firmware_bridge", "quant", "protos"):
        if init.name != "__init__.py" or len(init.relative_to(ROOT).parts) > 4:
            continue
        folder = init.parent
        modules = [path for path in _tracked(str(folder.relative_to(ROOT))) if path.parent == folder]
        modules = [path for path in modules if path.suffix == ".py" and not path.stem.startswith("__")]
        modules = [path for path in modules if not path.stem.endswith(("_pb2", "_pb2_grpc"))]
        if not modules:
            continue
        package = ".".join(folder.relative_to(ROOT).parts)
        package = f"pi0_edge.{package}" if package.split(".")[0] in ("quant", "protos") else package
        purpose = (ast.get_docstring(ast.parse(init.read_text())) or "").partition("\n\n")[0].replace("\n", " ")
        page = f"reference/packages/{package}.md"
        rows.append(f"| [`{package}`](packages/{package}.md) | {purpose} |")
        body = [f"# {package}", "", purpose, ""]
        for module in modules:
            body += [f"## `{module.stem}`", "", f"::: {package}.{module.stem}", "    options:"]
            body += ["      show_root_heading: false", "      show_root_toc_entry: false", "      heading_level: 3", ""]
        pages[page] = "\n".join(body)
    text = (
        "# Packages\n\nWhat every module defines. Only [the Python API](api.md) is public: everything else may change "
    )
    text += "in any release.\n\n| package | is |\n|---|---|\n"
    return {PACKAGES_PAGE: text + "\n".join(rows) + "\n", **pages}


def _tracked(*folders: str) -> list[Path]:
    """Files of the project under some folders, sorted; links and what git ignores are left out."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode == 0:
        found = [ROOT / line for line in listed.stdout.splitlines()]
    else:  # an unpacked archive
        found = [path for folder in folders for path in (ROOT / folder).rglob("*") if "build" not in path.parts]
    return sorted(path for path in set(found) if path.is_file())


def _at(page: str, text: str) -> str:
    """The text of a file at the top of the tree, with links as seen from `page`."""
    above = "../" * page.count("/")

    def moved(found: re.Match[str]) -> str:
        target = found[1]
        if target in PROJECT_PAGES:
            target = posixpath.relpath(PROJECT_PAGES[target], posixpath.dirname(page))
        elif target.startswith("docs/"):
            target = above + target.removeprefix("docs/")
        else:
            target = f"{above}../{target}"
        return f"]({target}{found[2] or ''})"

    return _LINK.sub(moved, text)


def _outside(page: str, text: str) -> list[str]:
    """Paths from the root of the tree that a page links to, outside docs/."""
    found = (_from_root(page, link[1]) for link in _LINK.finditer(text))
    return [target for target in found if target is not None]


def _from_root(page: str, link: str) -> str | None:
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith(("docs/", "..")) or not (ROOT / target).exists() else target


def _site_path(target: str) -> str:
    return f"files/{target}" + ("" if Path(target).suffix in RAW else ".txt")


def _relink(page: str, text: str) -> str:
    folder = posixpath.dirname(page)

    def relinked(found: re.Match[str]) -> str:
        text, link, anchor = found.groups()
        target = _from_root(page, link)
        if target is None:
            return found[0]
        if os.path.isdir(ROOT / target):
            return text if text.strip("`") == target else f"{text} (`{target}`)"
        return f"[{text}]({posixpath.relpath(_site_path(target), folder or '.')}{anchor or ''})"

    return re.sub(r"\[([^]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)", relinked, text)
