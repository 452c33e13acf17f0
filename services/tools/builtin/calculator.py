"""The calculator: one expression in, its value out. What it understands stands in ``arithmetic.py``."""

from __future__ import annotations

from typing import Any, Final

from services.tools.arithmetic import FUNCTION_NAMES, MAX_CHARS, NoResult, NotArithmetic, evaluate
from services.tools.builtin._wording import ASK, BEGIN, DIGITS, END, NUMBER, WORDS, any_of
from services.tools.ports import DocumentFinder, ToolFunction
from services.tools.types import BadArgument, Context, Example, Output, Pattern, ToolFailed, ToolSpec, expression

# An expression in a sentence: operands and operators in turn, so that "5-4-3 rule" or a list of scores
# is taken as a whole or not at all.
_CALL: Final = rf"{any_of(*FUNCTION_NAMES)} ?\((?:[^()]++|\([^()]*+\))++\)"
_ROOT: Final = rf"(?:the )?square root of (?:{DIGITS}|{WORDS})"
_OPERAND: Final = (
    rf"\(*+(?:[-−]|negative |minus )?+[$€£]?+(?:{DIGITS}|{WORDS}|{_CALL}|{_ROOT}|pi\b|π)"
    r"(?:\s?%(?!\s?[\d(.])| percent\b| squared\b| cubed\b"
    r"|(?: raised)?+ to the \d{1,3}(?:st|nd|rd|th) power\b)?+\)*+"
)
_WORD_OPERATOR: Final = any_of(
    "plus",
    "minus",
    "times",
    "multiplied by",
    "divided by",
    "over",
    "mod",
    "modulo",
    "to the power of",
    "raised to the power of",
    "of",
)
_OPERATOR: Final = rf"(?:\*\*|[-+*/×÷·^%−–]|x(?=\s?[\d(])|{_WORD_OPERATOR}\b|[加减乘除]以?|的)"
_EXPRESSION: Final = rf"{_OPERAND}(?:\s?{_OPERATOR}\s?{_OPERAND})*+"
# Unmistakable without being asked for: no score ("2-1"), date ("9/11") or range has these.
_PLAIN_SUM: Final = (
    rf"{_OPERAND}(?:(?:\s?(?:\*\*|[+*×÷^])\s?| [-−/] |(?:(?<=%)|(?<=percent)) of | {any_of('plus', 'times')} "
    rf"| (?:multiplied|divided) by ){_OPERAND})++"
)
# "24/7", "9/11", dates and years that only look like sums
_NO_SUM: Final = (
    r"(?!(?:24/7|9/11|7/7|50/50|\d{4}-\d\d?-\d\d?|\d\d?/\d\d?/\d\d(?:\d\d)?|(?:1\d|20)\d\d[-–](?:1\d|20)?\d\d)\b)"
)
_LIST: Final = rf"{NUMBER}(?:(?:, (?:and )?| and | & ){NUMBER})++"
_VERB: Final = (
    rf"(?:multiply {NUMBER} (?:by|with|and|times) {NUMBER}|divide {NUMBER} by {NUMBER}"
    rf"|(?:subtract|take)(?: away)? {NUMBER}(?: away)? from {NUMBER}|add (?:{NUMBER} to {NUMBER}|{_LIST}))"
)
_NOUN: Final = (
    r"(?:(?:sum|total|product|average|mean|maximum|minimum|largest|biggest|highest|smallest|lowest) "
    rf"of {_LIST}|(?:difference|quotient) (?:between|of) "
    rf"{NUMBER} and {NUMBER}|(?:twice|double|half(?: of)?|cube of|square of) {NUMBER}"
    rf"|remainder (?:of|when|if) {NUMBER} (?:is )?divided by {NUMBER}"
    rf"|(?:an?|{WORDS}) (?:hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|tenths?) of [$€£]?{NUMBER}"
    rf"|{NUMBER} ?(?:%|percent) off(?: of)? [$€£]?{NUMBER}"
    rf"|(?:an? )?{NUMBER} ?(?:%|percent) (?:tip|tax|vat|interest|commission) (?:on|of) [$€£]?{NUMBER})"
)
_ROUND: Final = (
    rf"round {NUMBER} to (?:{NUMBER} (?:decimals?|digits|(?:decimal )?places)|the nearest (?:integer|whole number))"
)

SPEC: Final = ToolSpec(
    name="calculator",
    description=(
        "Works out one arithmetic expression exactly: + - * / ^ %, parentheses, percentages ('15% of 240'), "
        f"the functions {', '.join(FUNCTION_NAMES)}, and the constants pi and e. Use it for every sum, however easy."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "expression": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_CHARS,
                "description": "arithmetic such as '12 * (3 + 4)', 'sqrt(2)', '15% of 240'",
            }
        },
        "required": ["expression"],
        "additionalProperties": False,
    },
    output_schema={
        "type": "object",
        "properties": {
            "expression": {"type": "string", "description": "the expression, written evenly"},
            "value": {"type": "number", "description": "the value as a double"},
            "decimal": {"type": "string", "description": "the value with up to 50 digits"},
            "exact": {"type": "boolean", "description": "whether `decimal` is the value and not close to it"},
        },
        "required": ["expression", "value", "decimal", "exact"],
        "additionalProperties": False,
    },
    timeout_s=1.0,
    max_concurrency=64,
    patterns=(
        Pattern(rf"{ASK}{_NO_SUM}(?P<expression>{_EXPRESSION}){END}", (expression("expression"),)),
        Pattern(
            rf"\b(?:what|how much)(?: does| do| would| will)?+ {_NO_SUM}(?P<expression>{_EXPRESSION}) "
            rf"(?:is|are|be|equals?(?: to)?|makes?|gives?|comes? to){END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"^{_NO_SUM}(?P<expression>{_EXPRESSION}) (?:is|are|equals?|makes?|=) (?:what|how much){END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"\b(?:is|does) {_NO_SUM}(?P<expression>{_EXPRESSION}) (?:equals?(?: to)?|make) {NUMBER}{END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"\bwhat do (?P<expression>{_LIST}) (?:add up to|sum to|make together|total){END}",
            (expression("expression"),),
        ),
        Pattern(rf"{ASK}(?P<expression>{NUMBER} (?:less|more) than {NUMBER}){END}", (expression("expression"),)),
        Pattern(rf"{BEGIN}(?P<expression>{_ROUND}){END}", (expression("expression"),)),
        Pattern(rf"^{_NO_SUM}(?P<expression>{_EXPRESSION})\s?=?\s?[?.]?\s?$", (expression("expression"),)),
        Pattern(rf"{BEGIN}(?P<expression>{_PLAIN_SUM}){END}", (expression("expression"),)),
        Pattern(rf"{BEGIN}(?P<expression>{_VERB}|{_ROOT}|{_CALL}){END}", (expression("expression"),)),
        Pattern(
            rf"(?:{ASK}|{BEGIN}|which (?:number |one )?is )(?:the )?(?P<expression>{_NOUN}){END}",
            (expression("expression"),),
        ),
        # 12乘以7等于多少, 240的15%是多少, 计算 3 + 4
        Pattern(
            rf"(?:计算|算一下|请问)?\s?(?<![-\d.%+*/^×÷()])(?P<expression>{_EXPRESSION})\s?(?:等于|是|=)\s?(?:多少|几|什么)",
            (expression("expression"),),
        ),
    ),
    examples=(
        Example({"expression": "12*7"}, "12 × 7 = 84"),
        Example({"expression": "0.1 + 0.2"}, "0.1 + 0.2 = 0.3"),
        Example({"expression": "15% of 240"}, "15% of 240 = 36"),
        Example({"expression": "sqrt(2)"}, "sqrt(2) ≈ 1.41421356237310"),
    ),
)


def open(documents: DocumentFinder) -> ToolFunction:
    """The calculator needs nothing."""
    return calculate


async def calculate(arguments: dict[str, Any], context: Context, /) -> Output:
    """Work ``arguments["expression"]`` out."""
    text = arguments["expression"]
    try:
        result = evaluate(text)
    except NotArithmetic as exc:
        raise BadArgument("expression", text, f"not arithmetic: {exc}") from exc
    except NoResult as exc:
        raise ToolFailed(f"{text}: {exc}") from exc
    value = float(result.value)
    return Output(
        {
            "expression": result.shown,
            "value": int(value) if value.is_integer() and abs(value) < 2**53 else value,
            "decimal": result.decimal,
            "exact": result.exact,
        },
        result.text,
    )
