"""A status page as its readers get it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from webtest import TestApp

from mcpool_wsgi.status import StatusApp

VOID = {"meta", "link", "rect"}


class Page(HTMLParser):
    """A page, checked while it is read: its elements nest, and its ids are unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self._texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._open == []
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self._texts.append((self._open[-1] if self._open else "", data))

    def text(self) -> str:
        """What a reader sees."""
        seen = [text for tag, text in self._texts if tag not in ("style", "script", "title")]
        return " ".join(" ".join(seen).split())

    def inside(self, tag: str) -> list[str]:
        return [text for inside, text in self._texts if inside == tag]

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def labels(self) -> list[str]:
        """What drawings say."""
        return [it["aria-label"] for _, it in self.elements if it.get("role") == "img"]


def look(pools: Any) -> Page:
    """What a new StatusApp shows."""
    return Page(TestApp(StatusApp(pools)).get("/").text)


def facts(app: Any) -> Any:
    return TestApp(app).get("/?format=json").json


class Mute:
    """Somebody's client, without statistics."""

    def clone(self) -> Mute:
        return self
