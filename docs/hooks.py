"""What ``make docs`` does besides mkdocs: links into the rest of the repository, and no network."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

_log = logging.getLogger("mkdocs.hooks")  # in strict mode a warning here fails the build
DOCS = Path(__file__).parent
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\((\.\./[^)#\s]*)[^)]*\)")
FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"(?:https?:)?//[^\"]*")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link to a file outside of docs/ becomes its text: the site does not know where the repository is hosted.

    A diagram is shown as its source: what draws it would have to be fetched.
    """
    folder = Path(page.file.abs_src_path).parent

    def shown(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / link[2]))
        if target.is_relative_to(DOCS):
            return link[0]
        if not target.exists():
            _log.warning("%s: there is no %s", page.file.src_uri, link[2])
        return link[1]

    markdown = markdown.replace("```mermaid\n", "*The source of a diagram, in Mermaid:*\n\n```mermaid\n")
    return LINK.sub(shown, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Repository hosts want a bar in a table's code escaped; here the escape would show."""
    return re.sub(r"<code>[^<]*</code>", lambda code: code[0].replace("\\|", "|"), html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """A page is whole without a network."""
    for tag in FETCHED.findall(output):
        _log.warning("%s fetches from the network: %s", page.file.src_uri, tag)
    return output
