"""Document search: the caller's own documents, through the retriever.

A turn searches by itself before it answers. This tool is for questions that ask for a search in so many
words, and for models that want another look with other words.
"""

from __future__ import annotations

from typing import Any, Final

from services.tools.builtin._wording import BEGIN
from services.tools.ports import DocumentFinder, ToolFunction
from services.tools.types import Context, Example, Output, Pattern, ToolSpec, text

_DEFAULT_TOP_K: Final = 3
_QUOTE_CHARS: Final = 160
_DOCUMENTS: Final = (
    r"(?:through )?(?:the |my |our |your |all )?(?:project['’]?s? |weft )?"
    r"(?:uploaded |ingested )?(?:docs?|documents?|documentation|manuals?|files|knowledge base)\b"
)
# The words to look for end at a mark, or where another request begins.
_STOP: Final = (
    r"(?=\s?(?:[?!;]|\.(?:\s|$)|$)|,? (?:and|then|and then|also) (?:what|how|which|when|is|are|was|will|calculate"
    r"|compute|convert|tell|give|add|multiply|divide|subtract|search|find|look)\b|,? please\b)"
)
_WORDS: Final = r"['\"“‘]?(?P<query>[^?!;\n]{1,300}?)['\"”’]?"
_ABOUT: Final = r"(?:for|about|on)"
_MENTIONS: Final = (
    r"(?:(?:all |any )?(?:mentions?|references?|passages?|everything|anything|something) (?:of|to|on|about|for) )?"
)

SPEC: Final = ToolSpec(
    name="document_search",
    description="Searches the caller's documents for passages. Use it when the question asks for a search in words.",
    input_schema={
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1, "maxLength": 1000, "description": "what to look for"},
            "top_k": {"type": "integer", "minimum": 1, "maximum": 20, "default": _DEFAULT_TOP_K},
            "collection": {
                "type": "string",
                "pattern": "^collections/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
                "description": "a name such as 'collections/default', which is also what unset means",
            },
        },
        "required": ["query"],
        "additionalProperties": False,
    },
    output_schema={
        "type": "object",
        "properties": {
            "hits": {
                "type": "array",
                "maxItems": 20,
                "items": {
                    "type": "object",
                    "properties": {
                        "passage": {"type": "string"},
                        "title": {"type": "string"},
                        "section": {"type": "string"},
                        "source": {"type": "string"},
                        "text": {"type": "string"},
                        "score": {"type": "number"},
                    },
                    "required": ["passage", "title", "section", "source", "text", "score"],
                    "additionalProperties": False,
                },
            },
            "epoch": {"type": "string", "description": "how far in the log the search looked"},
            "degraded": {"type": "array", "items": {"type": "string"}, "description": "what was left out"},
        },
        "required": ["hits", "epoch", "degraded"],
        "additionalProperties": False,
    },
    timeout_s=5.0,
    max_concurrency=32,
    patterns=(
        # search the docs for X
        Pattern(
            rf"{BEGIN}(?:search|look|check|query|scan|go)(?: (?:in|through|up|inside|within))?+ {_DOCUMENTS}"
            rf"(?:(?: and (?:see|find|look))?+ {_ABOUT}|:) {_MENTIONS}{_WORDS}{_STOP}",
            (text("query"),),
        ),
        # do a document search for X, run a search in the docs for X
        Pattern(
            rf"{BEGIN}(?:do|run|perform|make|start) (?:a |an )?(?:document search|docs search"
            rf"|search (?:in|of|through|over|across) {_DOCUMENTS}) {_ABOUT} {_WORDS}{_STOP}",
            (text("query"),),
        ),
        # look up X in the documents, find mentions of X in our documentation
        Pattern(
            rf"{BEGIN}(?:look up|look for|search for|find|search) {_MENTIONS}{_WORDS} (?:in|within|inside|from|across) "
            rf"{_DOCUMENTS}{_STOP}",
            (text("query"),),
        ),
    ),
    examples=(Example({"query": "retry budget", "top_k": 2}, ""),),
)


def open(documents: DocumentFinder) -> ToolFunction:
    """The tool over ``documents``."""

    async def search(arguments: dict[str, Any], context: Context, /) -> Output:
        found = await documents.find(
            arguments["query"],
            top_k=int(arguments.get("top_k", _DEFAULT_TOP_K)),
            collection=arguments.get("collection", ""),
        )
        hits = [
            {
                "passage": hit.passage,
                "title": hit.title,
                "section": hit.section,
                "source": hit.source,
                "text": hit.text,
                "score": hit.score,
            }
            for hit in found.passages
        ]
        result = {"hits": hits, "epoch": found.epoch, "degraded": list(found.degraded)}
        return Output(result, _sentence(arguments["query"], hits))

    return search


def _sentence(query: str, hits: list[dict[str, Any]]) -> str:
    shown = query if len(query) <= 80 else query[:79] + "…"
    if not hits:
        return f"No passage about “{shown}” was found."
    best = hits[0]
    quote = " ".join(best["text"].split())
    quote = quote if len(quote) <= _QUOTE_CHARS else quote[: _QUOTE_CHARS - 1].rsplit(" ", 1)[0] + "…"
    count = f"{len(hits)} passage{'' if len(hits) == 1 else 's'}"
    return f"{count} about “{shown}”; the best, in {best['title'] or best['source']}: “{quote}”"
