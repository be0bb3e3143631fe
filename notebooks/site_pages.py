"""Pages of the site that are made of other files when MkDocs builds it (see ``mkdocs.yml``)."""

import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import careamics_dm
from careamics_dm.cli.help import Row, help_sections

ROOT = Path(__file__).parents[1]
LINKS = {
    r"\]\(\.\./README\.md": "](index.md",
    r"\]\(CHANGELOG\.md": "](changelog.md",
    r"\]\(notebooks/": "](",
    r"\]\(([\w-]+)\.ipynb\)(?!\{)": r"](\1.md)",
}
"""What links between files of the repository are on the site."""
GROUPS = {
    "data": "Formats",
    "data/patch_filter": "Filters of training patches",
    "data/normalization": "Normalisation",
    "data/augmentation": "Augmentation",
    "model": "Models",
    "writer": "Writers",
    "logger": "Loggers",
    "callbacks": "Callbacks",
}
"""Groups whose variants have settings of their own, and their titles."""
REFERENCE = {
    path.rpartition(".")[2]: path
    for page in ROOT.glob("notebooks/api/*.md")
    for path in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)
}
"""Names that the reference explains, and their import paths."""
Sections = dict[str, list[Row]]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README, CHANGELOG and notebooks, and check that every public name has a page."""
    pages = {f"{path.stem}.md": notebook_page(path) for path in ROOT.glob("notebooks/*.ipynb")}
    pages["index.md"] = (ROOT / "README.md").read_text("utf-8")
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    if missing := set(careamics_dm.__all__) - REFERENCE.keys():
        raise PluginError(f"notebooks/api lacks {', '.join(sorted(missing))}.")
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links to files of the repository lead to pages, and put in the settings."""
    for link, target in LINKS.items():
        markdown = re.sub(link, target, markdown)
    return f"{markdown}\n{settings()}" if page.file.src_uri == "settings.md" else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Link public names to the reference, wherever they are written as code."""
    for name, path in REFERENCE.items():
        if name in ("predict", "stitch"):
            continue  # words that mean other things, too
        link = rf'<autoref identifier="{path}\1" optional><code>{name}\1</code></autoref>'
        html = re.sub(rf"<code>{name}((?:\.\w+)?)</code>(?!</a)", link, html)
    return html


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown, with the outputs that are stored in it."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    if not any(cell.get("outputs") for cell in cells):
        raise PluginError(f"{path.name} has no outputs: pytest -n 0 --overwrite notebooks")
    first, *parts = [part for cell in cells for part in _parts(cell)]
    download = f"[Download this notebook]({path.name}){{ download }}"
    return "\n\n".join([first.replace("\n", f"\n\n{download}\n", 1), *parts])


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
    for output in cell.get("outputs", ()):
        if output["output_type"] == "error" or output.get("name") == "stderr":
            raise PluginError(f"A notebook has an error or a warning among its outputs: {output}")
        data = output.get("data", {"text/plain": output.get("text", "")})
        if png := data.get("image/png"):
            yield f"![Picture that this code makes](data:image/png;base64,{''.join(png).strip()})"
        else:
            yield f"```text\n{''.join(data['text/plain']).rstrip()}\n```"


def settings() -> str:
    """Return what ``careamics-train --help`` lists, then what variants add or set otherwise."""
    sections = help_sections("train", [])
    parts = [f"## {title}\n\n{_table(rows)}" for title, rows in sections.items()]
    files = {group: sorted((ROOT / "conf" / group).glob("*.yaml")) for group in GROUPS}
    # Groups do not depend on each other: a configuration has a variant of each.
    rows = [zip(files, paths, strict=True) for paths in zip_longest(*files.values())]
    variants = [help_sections("train", [f"{g}={p.stem}" for g, p in row if p]) for row in rows]
    for group, title in GROUPS.items():
        parts.append(f"## {title}")
        for path, variant in zip(files[group], variants, strict=False):
            heading = f"### `{group}={path.stem}`"
            parts += [heading, _comment(path), _added(group, variant, sections)]
    return "\n\n".join(parts)


def _comment(path: Path) -> str:
    lines = path.read_text("utf-8").splitlines()
    return "\n".join(line[2:] for line in lines if line.startswith("# "))


def _added(group: str, variant: Sections, usual: Sections) -> str:
    """Return the settings of a variant that are not usual."""
    common = [(row.key, row.value) for rows in usual.values() for row in rows]
    place = f"{group.replace('/', '.')}."
    rows = [row for rows in variant.values() for row in rows if row.key.startswith(place)]
    added = [row for row in rows if (row.key, row.value) not in common]
    return _table(added) if added else ""


def _table(rows: list[Row]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{key}` | `{value}` | {text} |" for key, value, text in rows])
