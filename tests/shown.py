"""Markdown as a reader sees it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

#: A name that tries everything: lines, cells, markup.
HOSTILE_NAME = (
    "x | y\n\n| a | b |\n|---|---|\n<img src=x onerror=alert(1)> [link](https://example.org) "
    "![image](https://example.org/a.png) *bold*"
)


class Shown(HTMLParser):
    """What a page shows: tags without their attributes, and text by the innermost tag."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        library = pytest.importorskip("markdown_it")
        self.tags: list[str] = []
        self.texts: list[tuple[str, str]] = []
        parser = library.MarkdownIt("commonmark").enable(["table", "strikethrough"])
        self.feed(parser.render(markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.texts.append((tag, ""))

    def handle_data(self, data: str) -> None:
        if self.texts:
            tag, before = self.texts[-1]
            self.texts[-1] = (tag, before + data)

    def of(self, tag: str) -> list[str]:
        return [text.strip() for name, text in self.texts if name == tag]
