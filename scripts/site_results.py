"""A hook of MkDocs: the measurements that pages link to become part of the site.

Pages name them as they lie in the repository, `../benchmarks/results/...`, so that the links hold there too.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = {".md", ".json", ".png"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the results, as `results/...`."""
    for path in sorted(RESULTS.rglob("*")):
        if path.suffix in SHOWN:
            files.append(File.generated(config, f"results/{path.relative_to(RESULTS)}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where the results are in the site."""
    return markdown.replace("](../benchmarks/results/", "](results/")
