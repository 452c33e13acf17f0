"""Document search: the caller's own documents, through the retriever.

A turn searches by itself before it answers. This tool is for questions that ask for a search in so many
words, and for models that want another look with other words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from services.tools.builtin._wording import BEGIN
from services.tools.ports import DocumentFinder, ToolFunction
from services.tools.types import Context, Example, Output, Pattern, ToolSpec, text

_DEFAULT_TOP_K: Final = 3
_QUOTE_CHARS: Final = 160
# "the docs", "all of our internal documentation", "the employee handbook"
_DOCUMENTS: Final = (
    r"(?:through )?(?>(?:all (?:of )?)?)(?>(?:(?:the|my|our|your|these|those|this) )?)"
    r"(?:(?!(?:in|on|of|for|from|and|or|to|about|with)\b)[a-z'’-]{1,20}+ ){0,2}?"
    r"(?:docs?|documents?|documentation|manuals?|files|uploads|handbooks?|guides?|wiki|pdfs?|corpus|archives?"
    r"|notes|runbooks?|policies|knowledge ?base)\b"
)
_REQUEST: Final = (
    r"(?:calculate|compute|convert|evaluate|tell (?:me|us)|give (?:me|us)|let me know|add|multiply|divide|subtract"
    r"|(?:work|figure) out|what(?:['’]?s| is| was| are)|how (?:many|much|long|far))"
)
# The words to look for end at a mark, or where another request begins.
_STOP: Final = (
    rf"(?=\s?(?:[?!;]|\.(?:\s|$)|$)|, (?:and |then |also )?{_REQUEST}\b"
    rf"|,? (?:and|then|and then|also|and also|as well as|plus) (?:{_REQUEST}|what|how|which|when|is|are|was|will|solve"
    r"|round|express|change|count|check|search|find|look)\b"
    r"|,? (?:please|for me|thanks|thank you)(?:$|[?!.,;]))"
)
_WORDS: Final = r"(?>(?:the (?:word|phrase|term)s? (?=['\"“‘]))?)['\"“‘]?(?P<query>[^?!;\n]{1,300}?)['\"”’]?"
_ABOUT: Final = r"(?:for|about|on|regarding|concerning|containing|mentioning|that mentions?)"
_MENTIONS: Final = (
    r"(?>(?:(?:all |any |the )?(?:mentions?|references?|passages?|sections?|parts?|paragraphs?|everything|anything"
    r"|something|information|info) (?:of|to|on|about|for|regarding|mentioning|that mentions?) )?)"
)
_LOOK: Final = (
    r"(?:(?:go )?(?:search|look|check)|query|scan|go|dig|browse|comb|consult|(?:have|take) a (?:quick )?look)"
)
_IN: Final = r"(?>(?: (?:in|into|through|up|inside|within|at|over|across))?)"
# "what they say about", between "search the docs and tell me" and what is asked
_THEY_SAY: Final = (
    r"(?>(?:(?:what|whatever|anything|everything) (?:(?:they|it|is|there is|we) )?(?:(?:says?|said|written|have|has) )?"
    rf"{_ABOUT} )?)"
)

_HINT: Final = r"doc|manual|file|upload|handbook|guide|wiki|pdf|corpus|archive|note|runbook|polic|knowledge"

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
    hint=_HINT,
    patterns=(
        # search the docs for X
        Pattern(
            rf"{BEGIN}{_LOOK}{_IN} {_DOCUMENTS}"
            rf"(?:(?>(?: and (?:see|find|look))?) {_ABOUT}|:) {_MENTIONS}{_WORDS}{_STOP}",
            (text("query"),),
        ),
        # check in the docs what X is
        Pattern(
            rf"{BEGIN}(?:search|look|check|see){_IN} {_DOCUMENTS} "
            rf"(?P<query>(?:what|who|when|where|which|how|why|whether|if) [^?!;]{{1,300}}?){_STOP}",
            (text("query"),),
        ),
        # in the documents, look up X
        Pattern(
            rf"(?:^|[?!,;:.] |\b(?:and|then|please) )(?:in|from|using|within) {_DOCUMENTS},? (?:please )?"
            rf"(?:look up|look for|search for|search|find|check for) {_MENTIONS}{_WORDS}{_STOP}",
            (text("query"),),
        ),
        # do a quick search for X in the docs
        Pattern(
            rf"{BEGIN}(?:do|run|perform|make|start) an? (?:quick )?search (?:for|on|about) {_WORDS} "
            rf"(?:in|within|inside|across|of|through) {_DOCUMENTS}{_STOP}",
            (text("query"),),
        ),
        # search the docs and tell me X, look through our files to see what they say about X
        Pattern(
            rf"{BEGIN}{_LOOK}{_IN} {_DOCUMENTS},? (?:and|to|then) (?:then )?(?:tell me|let me know|see|find out|find"
            rf"|check|show me|give me|explain|summari[sz]e|list) {_THEY_SAY}{_MENTIONS}{_WORDS}{_STOP}",
            (text("query"),),
        ),
        # do a document search for X, run a search in the docs for X
        Pattern(
            rf"{BEGIN}(?:do|run|perform|make|start|use) (?:a |an |the )?(?:quick )?"
            rf"(?:(?:document|docs|documentation) search(?: tool)?|search (?:in|of|through|over|across) {_DOCUMENTS}) "
            rf"(?:{_ABOUT}|(?:to|and) (?:find|look for|look up|get)) {_MENTIONS}{_WORDS}{_STOP}",
            (text("query"),),
        ),
        # look up X in the documents, find mentions of X in our documentation, look X up in the docs
        Pattern(
            rf"{BEGIN}(?:look up|look for|look|search for|find|search|locate|retrieve|pull up|fetch)(?>(?: me| us)?) "
            rf"{_MENTIONS}{_WORDS} (?:up )?(?:in|within|inside|from|across) {_DOCUMENTS}{_STOP}",
            (text("query"),),
        ),
        # find out what the docs say about X
        Pattern(
            rf"{BEGIN}(?:look up|find out|find|check|see|search for) what {_DOCUMENTS} (?:says?|have to say|has to say"
            rf"|mentions?|contains?) (?:about|on|regarding|concerning) {_WORDS}{_STOP}",
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
            scope=replace(context.scope, collection=context.scope.collection or arguments.get("collection", "")),
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
