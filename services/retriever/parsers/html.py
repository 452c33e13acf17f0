"""HTML: what a reader sees of a page, without what is around it on the screen.

If the page says which part is its own (``main``), that part is read. Navigation, forms, scripts, what is hidden
and a page's footer are left out. Headings, lists, tables and listings are kept as such (``_page``); a table that
only lays the page out is read as the blocks within it. The title is the page's ``title``, else its first heading.

The tree is walked without recursion: pages nested thousands deep are met on the Web, by accident and by intent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Final

from lxml import etree

from services.retriever.documents.limits import Limits
from services.retriever.parsers._page import Page
from services.retriever.parsers.text import decode
from services.retriever.types import Parsed
from weft.errors import Reason, error

_DROPPED: Final = frozenset({
    "script", "style", "noscript", "template", "head", "nav", "iframe", "object", "embed", "svg", "canvas", "audio",
    "video", "button", "select", "textarea", "input", "datalist", "dialog", "menu", "map", "math",
})  # fmt: skip
_BLOCKS: Final = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "legend", "li", "main", "ol", "p",
    "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
})  # fmt: skip
_MAX_DEPTH: Final = 2_048  # libxml2's
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_FOOTER_OF: Final = frozenset({"article", "section", "blockquote"})
_DECLARED: Final = re.compile(
    r"<meta[^>]{1,200}?charset\s*=\s*[\"']?\s*([\w:.-]{1,40})|<\?xml[^>]{1,100}?encoding\s*=\s*[\"']([\w:.-]{1,40})",
    re.IGNORECASE,
)
_DECLARED_WITHIN_BYTES: Final = 4_096
_LANGUAGE: Final = re.compile(r"\b(?:lang|language|highlight-source)-([\w+#-]{1,20})")
_WIDE: Final = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uff60"
_BREAK_IN_WIDE: Final = re.compile(rf"(?<=[{_WIDE}])[ \t]*\n\s*(?=[{_WIDE}])")
_SPACE: Final = re.compile(r"[^\S\xa0]+")
_BREAK: Final = "\x0b"  # where a br stood, until the spaces around it are settled
_AROUND_BREAK: Final = re.compile(rf"[ \xa0]*{_BREAK}[ \xa0]*")


def parse(data: bytes, charset: str = "", limits: Limits = Limits()) -> Parsed:  # noqa: B008 - it is frozen
    """Parse the bytes of a page.

    Raises:
        WeftError: DOCUMENT_UNREADABLE when they are no text, or elements are nested too deep.
    """
    head = data[:_DECLARED_WITHIN_BYTES].decode("latin-1")
    declared = [name for match in _DECLARED.finditer(head) for name in match.groups() if name]
    return read(decode(data, charset, *declared))


def read(source: str, title: str = "") -> Parsed:
    """Parse a page; ``title`` is what to call it rather than what it calls itself."""
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True)
    root = etree.fromstring(source.encode(), parser) if source.strip() else None
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise error(
            Reason.DOCUMENT_UNREADABLE,
            f"the document's elements are nested deeper than {_MAX_DEPTH}; send its text as text/plain",
            max_depth=_MAX_DEPTH,
        )
    if root is None:
        return Parsed("", ())
    named = root.find(".//title")
    title = title or ("" if named is None else "".join(named.itertext()))
    mains = [main for main in root.iter("main") if not _dropped(main)]
    reader = _Reader()
    reader.read(mains[0] if len(mains) == 1 else root)
    return reader.page.parsed(title, levels=range(1, 7))


class _Step(Enum):
    ENTER = auto()
    LEAVE = auto()
    PASS = auto()  # by what is not read


class _Reader:
    """A tree to a page."""

    def __init__(self) -> None:
        self.page = Page()
        self._words: list[str] = []
        self._cells: list[str] | None = None  # of the row that is being read
        self._heads = False  # all cells of the row so far are headings

    def read(self, root: Any) -> None:
        """Write down what the tree under ``root`` says."""
        for element, step in _steps(root):
            if step is _Step.ENTER:
                self._enter(element)
                self._say(element.text)
                continue
            if step is _Step.LEAVE:
                self._leave(element)
            if element is not root:
                self._say(element.tail)
        self._flush()

    def _enter(self, element: Any) -> None:
        tag = element.tag
        if tag in _HEADINGS or tag in _BLOCKS or tag == "pre":
            self._flush()
        match tag:
            case "br":
                self._words.append(_BREAK)
            case "img":
                self._say(element.get("alt"))
            case "ul":
                self.page.open_list()
            case "ol":
                first = element.get("start", "1")
                self.page.open_list(int(first) if first.isdecimal() and len(first) < 10 else 1)
            case "li" if self._cells is None:
                self.page.item()
            case "table" if self._cells is None:
                self.page.begin_table()
            case "tr" if _is_of_data(element):
                self._cells, self._heads = [], True
            case "th" | "td" if self._cells is not None:
                self._heads = self._heads and tag == "th"

    def _leave(self, element: Any) -> None:
        tag = element.tag
        if tag in ("td", "th") and self._cells is not None:
            self._cells.append(self._taken().replace("\n", " "))
        elif tag == "tr" and self._cells is not None:
            cells, self._cells = self._cells, None
            if len(cells) == 1:
                self.page.prose(cells[0])
            else:
                self.page.row(cells, heads=self._heads)
        elif tag in _HEADINGS and self._cells is None:
            self.page.heading(_HEADINGS[tag], self._taken())
        elif tag == "pre" and self._cells is None:
            self._words.clear()
            language = _LANGUAGE.search(f"{element.get('class', '')} {_first_class(element)}")
            self.page.listing("".join(element.itertext()), language.group(1) if language else "")
        elif tag in _BLOCKS:
            self._flush()
        if tag in ("ul", "ol"):
            self.page.close_list()

    def _say(self, text: str | None) -> None:
        if text:
            self._words.append(_SPACE.sub(" ", _BREAK_IN_WIDE.sub("", text)))

    def _flush(self) -> None:
        """The end of a paragraph; within a cell, a space."""
        if self._cells is None:
            self.page.prose(self._taken())
        else:
            self._words.append(" ")

    def _taken(self) -> str:
        words = "".join(self._words)
        self._words.clear()
        return _AROUND_BREAK.sub("\n", re.sub(r" {2,}", " ", words)).strip()


def _steps(root: Any) -> Iterator[tuple[Any, _Step]]:
    """What to do with each element in turn, without recursion."""
    element = root
    while True:
        if element is not root and _dropped(element):
            yield element, _Step.PASS
        else:
            yield element, _Step.ENTER
            if len(element):
                element = element[0]
                continue
            yield element, _Step.LEAVE
        while element is not root and element.getnext() is None:
            element = element.getparent()
            yield element, _Step.LEAVE
        if element is root:
            return
        element = element.getnext()


def _dropped(element: Any) -> bool:
    tag = element.tag
    if tag in _DROPPED or not isinstance(tag, str):
        return True
    if tag == "footer":
        return not any(above.tag in _FOOTER_OF for above in element.iterancestors())
    return (
        "hidden" in element.attrib
        or element.get("aria-hidden") == "true"
        or element.get("role") in ("navigation", "menu")
    )


def _is_of_data(row: Any) -> bool:
    """Whether a table's row has cells of data rather than parts of the page's layout."""
    return not any(True for _ in row.iter("table", "pre", "ul", "ol", "article", *_HEADINGS))


def _first_class(element: Any) -> str:
    code = element.find("code")
    return "" if code is None else code.get("class", "")
