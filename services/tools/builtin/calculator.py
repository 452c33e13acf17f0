"""The calculator: one expression in, its value out. What it understands stands in ``arithmetic.py``."""

from __future__ import annotations

from typing import Any, Final

from services.tools.arithmetic import FUNCTION_NAMES, MAX_CHARS, NoResult, NotArithmetic, evaluate
from services.tools.builtin._wording import ANY_NUMBER, ASK, BEGIN, DIGITS, END, NUMBER, WORDS, any_of
from services.tools.ports import DocumentFinder, ToolFunction
from services.tools.types import BadArgument, Context, Example, Output, Pattern, ToolFailed, ToolSpec, expression

# An expression in a sentence: operands and operators in turn, so that "5-4-3 rule" or a list of scores
# is taken as a whole or not at all.
_CALL: Final = rf"{any_of(*FUNCTION_NAMES)} ?\((?>(?:[^()]++|\([^()]*+\))+)\)"
_ROOT: Final = rf"(?:(?:the )?(?:(?:(?:square |cube )?root|sqrt) of) (?:{DIGITS}|{WORDS})|√ ?{DIGITS})"
_OPERAND: Final = (
    rf"\(*+(?>(?:[-−]|negative |minus )?)[$€£]?+(?:{DIGITS}|{WORDS}|{_CALL}|{_ROOT}|pi\b|π)"
    r"(?>(?:\s?%(?!\s?[\d(.])| percent\b| squared\b| cubed\b"
    r"|(?>(?: raised)?) to the \d{1,3}(?:st|nd|rd|th)\b(?>(?: power\b)?))?)\)*+"
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
    "to the power",
    "to the power of",
    "take away",
    "raised to the power of",
    "of",
    "is multiplied by",
    "is divided by",
    "added to",
)
_OPERATOR: Final = rf"(?:\*\*|[-+*/×÷·^%−–]|x(?=\s?[\d(])|{_WORD_OPERATOR}\b|[加减乘除]以?|的)"
_EXPRESSION: Final = rf"{_OPERAND}(?>(?:\s?{_OPERATOR}\s?{_OPERAND})*)"
_EVENLY: Final = "(?:evenly |equally |fairly )?"
_AMONG: Final = "(?:between|among|amongst|across|into|by)"
# Unmistakable without being asked for: no score ("2-1"), date ("9/11") or range has these.
_PLAIN_SUM: Final = (
    rf"{_OPERAND}(?>(?:(?:\s?(?:\*\*|[+*×÷^])\s?| [-−/] |(?:(?<=%)|(?<=percent)) of | {any_of('plus', 'times')} "
    rf"| (?:multiplied|divided) by ){_OPERAND})+)"
)
# "24/7", "9/11", dates and years that only look like sums
_NO_SUM: Final = (
    r"(?!(?:24/7|9/11|7/7|50/50|\d{4}-\d\d?-\d\d?|\d\d?/\d\d?/\d\d(?:\d\d)?|(?:1\d|20)\d\d[-–](?:1\d|20)?\d\d)\b)"
)
_SUM_OF: Final = rf"[$€£]?{NUMBER}"  # of money, or of anything
_CURRENCY: Final = "(?>(?: (?:dollars|euros|pounds|bucks))?)"
_LIST: Final = rf"{_SUM_OF}(?>(?:(?:, (?:and |or )?| and | & | or ){_SUM_OF})+)"
_SHARE: Final = rf"{NUMBER} ?(?:%|percent)"
_MOST: Final = any_of("maximum", "max", "largest", "biggest", "highest", "greatest")
_LEAST: Final = any_of("minimum", "min", "smallest", "lowest", "least")
# "… and add 7", but not "… and add 7 to 8"
_THEN: Final = (
    r"(?>(?:,? (?:and|then|and then) (?:add|subtract|(?:multiply|divide)(?: (?:it|that|this|them|the result))? by)"
    rf" {NUMBER}(?!,? (?:to|from|and|\d)))?)"
)
_PLACES: Final = rf"(?:{NUMBER} (?:decimals?|digits|(?:decimal )?places?)|the nearest (?:integer|whole number))"
# Told to reckon. In several groups: a planner takes no pattern beyond a certain length.
_VERBS: Final = (
    rf"(?:multiply {NUMBER} (?:by|with|and|times)|divide {_SUM_OF} by) {NUMBER}{_THEN}",
    rf"(?:subtract|take|deduct)(?: away)? {_SUM_OF}(?>(?: ?%| percent\b)?)(?: away)? from {_SUM_OF}{_THEN}",
    rf"add (?:{_SHARE}(?: [a-z]{{3,12}}+){{0,2}}?|{_SUM_OF}) to {_SUM_OF}{_THEN}",
    rf"(?:(?:add|sum|total)(?>(?: up| together)?)|average) {_LIST}{_THEN}",
    rf"raise {NUMBER} to the (?:power (?:of )?{NUMBER}|\d{{1,3}}(?:st|nd|rd|th) power)",
    rf"(?:(?:increase|raise|reduce|decrease|lower|cut|discount) {_SUM_OF} by {_SHARE}"
    rf"|(?:take|knock|get) {_SHARE} off(?: of)? {_SUM_OF})",
    rf"(?:halve|triple|quadruple) {_SUM_OF}|{_ROOT}|{_CALL}",
)
# What is asked for by its name
_NOUNS: Final = (
    rf"(?:sum|total|product|average|mean|{_MOST}|{_LEAST})(?>(?: (?:number|value|one))?) "
    rf"(?:of|among|out of|between) (?:the numbers )?{_LIST}",
    rf"(?:difference|quotient) (?:between|of) {_SUM_OF} and {_SUM_OF}",
    rf"(?:twice|double|half(?: of)?|cube of|square of|absolute value of) {_SUM_OF}",
    rf"(?:remainder|remains) (?:of|when|if) {NUMBER} (?:is )?divided by {NUMBER}",
    rf"(?:an?|{WORDS}) (?:hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|tenths?) of {_SUM_OF}",
    rf"{_SHARE} (?:off(?: of)?|discount (?:on|off|from)|(?:more|less|higher|lower) than) {_SUM_OF}",
    rf"(?:an? )?{_SHARE} (?:(?:tip|sales tax|tax|vat|interest|commission) (?:on|of)|on) {_SUM_OF}",
    rf"{_SUM_OF} (?:increased|raised|reduced|decreased|lowered|cut|discounted) by {_SHARE}",
    rf"{_SUM_OF}(?: [a-z]{{3,12}}+){{0,2}}? (?:(?:plus|with|including|and) (?:an? )?{_SHARE} "
    r"(?:vat|sales tax|tax|tip|interest|service)"
    rf"|(?:with|after|at|is|minus|less) (?:an? )?{_SHARE} (?:off|discount|reduction))",
    rf"{NUMBER} (?:times as (?:much|many|big|large) as|subtracted from|taken (?:away )?from) {NUMBER}",
    rf"{NUMBER} rounded (?:off )?to {_PLACES}",
    rf"{_LIST} (?:added|combined|summed)",
    rf"{_SUM_OF}(?: [a-z]{{3,12}}+)? (?:split|shared|divided)(?>(?: up)?) {_EVENLY}{_AMONG} {NUMBER}",
)
_ROUND: Final = rf"round (?:off )?{NUMBER} to {_PLACES}"
# "what percentage of 80 is 20", "20 is what percent of 80", "20 out of 80 as a percentage"
_PERCENT_OF: Final = (
    rf"(?:(?:percent(?:age)?|%) (?:of {_SUM_OF} (?:is|are|does|makes?) {_SUM_OF}"
    rf"|(?:is|are) {_SUM_OF} (?:out )?of {_SUM_OF})"
    rf"|{_SUM_OF} (?:is|are) (?:what|which|how many) (?:percent(?:age)?|%) of {_SUM_OF}"
    rf"|{_SUM_OF} ?(?:out of|of|over|/) ?{_SUM_OF} (?:as|in|expressed as) (?:an? )?(?:percent(?:age)?|%))"
)
# "the bill is $90 — what's a 20% tip on that"; the expression begins at the amount
_OF_THAT: Final = (
    rf"[$€£]?{DIGITS}(?: [a-z]{{2,12}}+){{0,3}}?(?>(?:[,.;:!]| ?[—–-])?) [a-z'’ ]{{0,30}}?"
    rf"{_SHARE}(?: [a-z]{{3,12}}+){{0,2}}? (?:of|on|off) (?:that|it|this|the total|the bill)"
)
# "a bill of 90 between 4 people", "$75 three ways"; the expression begins at the number
_DIVIDED: Final = (
    r"\b(?:split|share|divide|splitting|sharing|dividing) (?:up )?(?>(?:(?:an?|the|this|that|our|my) )?)"
    r"(?:(?:[a-z]{2,12}+ ){0,2}?(?:of|for) )?"
    rf"(?P<expression>{_SUM_OF}(?: [a-z]{{2,12}}+){{0,2}}? (?:{_EVENLY}{_AMONG} {NUMBER}|{NUMBER} ways))"
    r"(?: (?!how\b|what\b)[a-z]{2,12}+){0,2}?"
)
# "3 shirts at 19.99 each"
_PRICED: Final = (
    rf"{NUMBER} (?:[a-z-]{{2,16}}+ ){{1,3}}?(?:at|for|costing|that cost|which cost) {_SUM_OF}"
    rf"{_CURRENCY} (?:each|apiece|a piece|per [a-z]{{2,12}}+)"
)

_HINT: Final = rf"{ANY_NUMBER}|\bone\b.*\bone\b|\b(?:half|third|quarter|dozen|double|twice|triple|percent)\b"

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
    hint=_HINT,
    patterns=(
        Pattern(
            rf"{ASK}{_NO_SUM}(?P<expression>{_EXPRESSION})(?>(?: equal(?: to)?)?){_CURRENCY}{END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"\b(?:what|how much)(?>(?: does| do| would| will)?) {_NO_SUM}(?P<expression>{_EXPRESSION}) "
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
        Pattern(
            rf"(?:{ASK}|{BEGIN}|\b(?:what|which|express|write) )(?P<expression>{_PERCENT_OF}){END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"\b(?:which|what)(?>(?: (?:one|number|value))?) (?:of|among|out of) (?P<expression>{_LIST} "
            rf"(?:is|are) (?:the )?(?:{_MOST}|{_LEAST})){END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"\bhow (?:many times|often) (?:does|do|will|can) "
            rf"(?P<expression>{NUMBER} (?:go|fit|divide) (?:in|into) {NUMBER}){END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"\bhow much (?P<expression>(?:more|greater|larger|bigger|higher) is {NUMBER} than {NUMBER}){END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"\b(?:out )?of (?P<expression>{_LIST},? (?:which|what)(?: one| number)? is (?:the )?(?:{_MOST}|{_LEAST}))"
            rf"{END}",
            (expression("expression"),),
        ),
        Pattern(
            r"\b(?:which|what)(?: (?:of these|one|number)){0,2}? is (?:the )?"
            rf"(?P<expression>(?:{_MOST}|{_LEAST})(?: (?:number|value))?(?: here)?: {_LIST}){END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"\bhow many (?P<expression>{NUMBER}['’]?s (?:(?:are|go|fit) )?(?:there )?(?:in|into) {NUMBER}){END}",
            (expression("expression"),),
        ),
        Pattern(rf"(?P<expression>{_OF_THAT}){END}", (expression("expression"),)),
        # split 90 between 4; I have to share a bill of 90 among 4 people, how much does each pay
        Pattern(
            rf"(?:^|[?!,;:.] |please |you |me |let['’]?s |if we |if i ){_DIVIDED}{END}", (expression("expression"),)
        ),
        Pattern(rf"{_DIVIDED}[,.;:]?+ (?:so |and |then )?(?:how (?:much|many)|what)\b", (expression("expression"),)),
        # the cost of 3 shirts at 19.99 each; I bought 3 shirts at 19.99 each. What's the total?
        Pattern(
            r"\b(?:(?:how much|what) (?:is|are|for|do|does|would|will)"
            r"|(?:cost|price|total)(?: cost| price)? (?:of|for)) "
            rf"(?P<expression>{_PRICED})(?>(?: (?:cost|be|come to))?){END}",
            (expression("expression"),),
        ),
        Pattern(
            rf"(?P<expression>{_PRICED})[,.;:]?+ (?:so |and |then )?"
            r"(?:how much|what(?:['’]?s| is) the (?:total|sum|cost|price))\b",
            (expression("expression"),),
        ),
        Pattern(
            rf"^{_NO_SUM}(?P<expression>{_EXPRESSION})(?: is| equals)?\s?=?\s?[?.]?\s?$", (expression("expression"),)
        ),
        Pattern(rf"{BEGIN}(?:do )?(?P<expression>{_PLAIN_SUM}){END}", (expression("expression"),)),
        *(Pattern(rf"{BEGIN}(?P<expression>{verb}){END}", (expression("expression"),)) for verb in _VERBS),
        *(
            Pattern(
                rf"(?:{ASK}|{BEGIN}|which (?:number |one )?is |\b(?:pick|what|if|(?:tax|vat|tip|interest) is) )"
                rf"(?:the )?(?>(?:(?:price|cost) of )?)"
                rf"(?>(?:an? (?=[$€£]?\d))?)(?P<expression>{noun})(?>(?: is what| equals what)?){_CURRENCY}{END}",
                (expression("expression"),),
            )
            for noun in _NOUNS
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
