"""Words that carry little, in English and Chinese (data of `terms`), and abbreviations (data of `sentences`).

STOP and CJK_FUNCTION only join other words, COMMON and CJK_COMMON are found in any text. Sorted.
"""

from __future__ import annotations

from typing import Final

_STOP_TEXT = """
    a about above after again all also am an and any are aren as at be been before being below between both but by
    can could d did didn do does doesn doing don done down during each either else ever every few for from further
    get gets got had has have having he her here hers him his how i if in into is isn it its itself just let like
    ll m made make makes many may me might mine more most much must my no nor not of off on once one only onto or
    other our ours out over own per please re s same shall she should so some such t tell than that the their
    theirs them then there these they this those through to too under until up upon us use used using ve very was
    wasn we were weren what what's when where whether which while who whom whose why will with within without would
    yes you your yours
"""
_COMMON_TEXT = """
    allow amount area became become began begin believe born build built call called came cause change city code come
    command common consider considered contain country create day describe different during effect end ended event
    example exist fact famous feature find first following form found gave give given go good great group happen
    happened held help high hold important include increase involve item keep kind know known large last late lead
    leave level list little live located location long main major man mean member method name named need new number
    occur occurred often old order part people percent percentage person place play point popular possible prior
    process produce provide purpose put reason receive refer related result role say script second see set show side
    similar size small snippet special start started state still syntax system take term thing think time today took
    top total turn type use various want way well went word work world write year years
"""
_CJK_FUNCTION_TEXT = (
    "不与且个为之也了于从他以们会但位使其则到及可名向和因在地她如它对将就并很得或所把是更最有次此没由的着种等给而能"
    "若被要让该过这那都"
)
_CJK_COMMON_TEXT = """
    一个 一些 一种 不同 世界 世纪 主要 之前 之后 之间 人们 人口 人物 他们 以前 以及 以后 位于 作用 使用 关于 其他
    出现 分之 包括 历史 原因 发生 叫作 叫做 可以 可能 名字 名称 团体 国家 地区 地方 城市 大约 她们 存在 它们 导致
    属于 工作 年代 年份 建立 开始 当时 影响 成为 我们 提供 数量 方式 方法 方面 时候 时间 曾经 最多 最大 期间 来自
    比例 现在 百分 目前 目的 相同 称为 第一 类型 系统 组织 结束 结果 自己 著名 表示 认为 进行 通过 部分 重要 问题
    需要 首次
"""
_ABBREVIATIONS_TEXT = """
    Co Col Corp Dr Fig Ft Gen Inc Lt Ltd Mr Mrs Ms Mt No Prof Rev Sgt Sr St Jr Vol approx ca cf e.g etc fig i.e pp vol
    vs
"""
STOP: Final = frozenset(_STOP_TEXT.split())
COMMON: Final = frozenset(_COMMON_TEXT.split())
CJK_COMMON: Final = frozenset(_CJK_COMMON_TEXT.split())
CJK_FUNCTION: Final = frozenset(_CJK_FUNCTION_TEXT)
ABBREVIATIONS: Final = frozenset(_ABBREVIATIONS_TEXT.split())
