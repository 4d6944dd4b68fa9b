"""Add the pages and pictures outside of `docs` to the website, at the paths of the repository.

Links between pages then work on the website as they do on a code host. A hook of `properdocs.yml`.
"""

import re
from pathlib import Path

from properdocs.config.defaults import ProperDocsConfig
from properdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PATTERNS = (
    *("*.md", "docs/**/*", "examples/*.ipynb", "transcripts/*.md"),
    *("experiments/**/*.md", "experiments/*.toml"),
)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page without the backslashes that code hosts need before bars in code in tables."""
    return re.sub(r"`[^`\n]+`", lambda code: code[0].replace(r"\|", "|"), markdown)


def on_files(files: Files, config: ProperDocsConfig) -> Files:
    """Replace the files of `docs` by those of the repository that match a pattern."""
    for file in [each for each in files if each.src_dir == config.docs_dir]:
        files.remove(file)
    paths = {path for pattern in PATTERNS for path in ROOT.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files
