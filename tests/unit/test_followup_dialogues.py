"""Dialogues over small documents: a follow-up is answered with what it asks, not with what was asked before.

Everything but the network is real: parser and chunker, the orchestrator's completed question, the request that it makes
of it, the generator's reading of that, and `extractive:`.
"""

from __future__ import annotations

import pytest

from mesh.context import CallContext
from mesh.plugins import Url
from services.generator import convert
from services.generator.models import extractive
from services.generator.types import End, Piece
from services.orchestrator.followup import completed
from services.orchestrator.peers.generator import to_request
from services.orchestrator.types import Exchange, Prompt
from services.retriever.documents.chunking import chunk
from services.retriever.parsers import markdown
from weft.values import FinishReason, Passage

LIBRARY = """# Marlow Town Library

The library opens at nine on weekdays. It closes at six, and at eight on Thursdays. On Sundays it stays shut.

## Borrowing

A reader's card is free for residents. You may borrow twelve books at a time, for four weeks. Films can be kept for one
week. A book that comes back late costs ten pence a day.

## Rooms

The reading room seats forty people and is heated in winter. The music room can be booked for an hour at a time at the
front desk. It has a piano and a pair of headphones.
"""
CAFE = """# The Copper Kettle

The café beside the market opens at seven. It closes at four in the afternoon. Dogs are welcome on the terrace.
"""
BREAD = """# Sourdough for beginners

The first rise takes about five hours at 24 degrees. Fold the dough every hour. In a cold kitchen it takes longer,
because the yeast is slow.

## Baking

Bake the loaf at 250 degrees for forty minutes. The crust stays crisp for a day; wrapped in a cloth, the loaf keeps for
four days.

## Starter

Feed the starter once a week with equal weights of flour and water. It lives in the fridge.
"""
HERON = """# Heron irrigation controller

The Heron waters up to eight beds from one tap. It runs on two AA cells, which last a season. When a cell is nearly
empty the red lamp blinks twice a minute.

## Installing

Screw the Heron to the tap by hand and open the tap slowly. Connect it with:

```
heron pair --bed 1
```

## Programming

```python
async def main():
    heron = await connect("heron.local")
    print(heron.moisture(bed=1))
    await heron.water(bed=1, minutes=5)
```
"""
OKONJO = """# Ada Okonjo

Ada Okonjo was a Nigerian engineer who designed bridges. She was born in Enugu in 1921 and died in Lagos in 1994. She
studied in Glasgow, where she was the only woman in her year.

Her best-known bridge crosses the Kaduna river. It was finished in 1958 and carries two lanes and a railway.
"""
FERRY = """# Skerry Ferry

The ferry leaves Portnell every hour from six until ten at night. The crossing takes twenty-five minutes.

| ticket | price |
|---|---|
| single | four pounds |
| return | seven pounds |
| bicycle | one pound |

Children under five travel free. In a storm the ferry does not sail, because the quay is flooded.
"""
OTTER = """# The Eurasian otter

The Eurasian otter feeds mostly on fish. An adult male weighs about ten kilograms. Cubs stay with their mother for a
year.
"""
BADGER = """# The badger

The badger lives in woods and meadows. It feeds on earthworms. An adult weighs about twelve kilograms.
"""
LIBRARY_ZH = """# 青石镇图书馆

图书馆工作日上午九点开门，晚上六点关门。周末上午十点开门。

办理借书证是免费的。每人一次最多借十本书，借期为四周。逾期每天收费一角。

阅览室有四十个座位，冬天有暖气。
"""
TEA_ZH = """# 云雾茶

云雾茶产自海拔八百米的山区。采摘在四月初开始，五月底结束。

冲泡时水温以八十度为宜，浸泡三分钟。茶叶应存放在阴凉干燥的地方，可以保存一年。
"""


class Dialogue:
    """A session over some documents, all of which are found for every question."""

    def __init__(self, *documents: str) -> None:
        self._passages: list[Passage] = []
        for number, document in enumerate(documents):
            parsed = markdown.parse(document.encode())
            self._passages += [
                Passage(f"collections/c/documents/{number}/chunks/{piece.number}", piece.text, parsed.title, section)
                for piece in chunk(parsed)
                for section in [" § ".join(piece.section)]
            ]
        self._history: list[Exchange] = []

    async def ask(self, question: str) -> str:
        """The answer; empty where there is none."""
        query = completed(question, self._history)
        prompt = Prompt(question, query, history=tuple(self._history), passages=tuple(self._passages))
        model = extractive.open(Url.parse("extractive:"))
        events = [event async for event in model.generate(convert.request(to_request(prompt), CallContext()))]
        text = "".join(event.text for event in events if isinstance(event, Piece))
        self._history.append(Exchange(question, text, query))
        end = events[-1]
        assert isinstance(end, End)
        return "" if end.reason is FinishReason.ABSTAINED else " ".join(text.split())


ANSWERS = {
    "an hour": (
        (LIBRARY, CAFE),
        ("When does the library open?", "The library opens at nine on weekdays."),
        ("And when does it close?", "It closes at six, and at eight on Thursdays."),
        ("And on Sundays?", "On Sundays it stays shut."),
    ),
    "another thing of the same kind": (
        (LIBRARY, CAFE),
        ("How many books may I borrow?", "You may borrow twelve books at a time, for four weeks."),
        ("And films?", "Films can be kept for one week."),
        ("What does it cost if a book comes back late?", "A book that comes back late costs ten pence a day."),
    ),
    "another room": (
        (LIBRARY,),
        ("How many people does the reading room seat?", "The reading room seats forty people and is heated in winter."),
        (
            "And what about the music room?",
            "The music room can be booked for an hour at a time at the front desk.",
        ),
        ("Does it have a piano?", "It has a piano and a pair of headphones."),
    ),
    "under other circumstances": (
        (BREAD, CAFE),
        ("How long does the first rise take?", "The first rise takes about five hours at 24 degrees."),
        ("And in a cold kitchen?", "In a cold kitchen it takes longer, because the yeast is slow."),
    ),
    "only common words of its own": (
        (BREAD,),
        ("At what temperature is the loaf baked?", "Bake the loaf at 250 degrees for forty minutes."),
        (
            "How long does it keep?",
            "The crust stays crisp for a day; wrapped in a cloth, the loaf keeps for four days.",
        ),
        ("And the starter?", "Feed the starter once a week with equal weights of flour and water."),
    ),
    "beside a listing": (
        (HERON, FERRY),
        ("How many beds does the Heron water?", "The Heron waters up to eight beds from one tap."),
        ("And what does it run on?", "It runs on two AA cells, which last a season."),
        ("How long do they last?", "It runs on two AA cells, which last a season."),
        (
            "What happens when one is nearly empty?",
            "When a cell is nearly empty the red lamp blinks twice a minute.",
        ),
    ),
    "a person": (
        (OKONJO, FERRY),
        ("Who was Ada Okonjo?", "Ada Okonjo was a Nigerian engineer who designed bridges."),
        ("And where did she study?", "She studied in Glasgow, where she was the only woman in her year."),
        ("When did she die?", "She was born in Enugu in 1921 and died in Lagos in 1994."),
    ),
    "a row of a table": (
        (FERRY, LIBRARY, CAFE),
        ("What is the price of a single ticket?", "| single | four pounds |"),
        ("And a bicycle?", "| bicycle | one pound |"),
        ("And for children?", "Children under five travel free."),
        ("What about dogs?", ""),
        ("Does it sail in a storm?", "In a storm the ferry does not sail, because the quay is flooded."),
        ("Why?", "In a storm the ferry does not sail, because the quay is flooded."),
    ),
    "nothing to be found": (
        (LIBRARY,),
        ("When does the library open?", "The library opens at nine on weekdays."),
        ("And the swimming pool?", ""),
        ("What about parking?", ""),
    ),
    "a reason that is not given": (
        (CAFE,),
        ("When does the café open?", "The café beside the market opens at seven."),
        ("Why?", ""),
        ("Tell me more", "It closes at four in the afternoon."),
    ),
    "another subject": (
        (OTTER, BADGER),
        ("What does the otter feed on?", "The Eurasian otter feeds mostly on fish."),
        ("And how much does it weigh?", "An adult male weighs about ten kilograms."),
        ("What about the badger?", "The badger lives in woods and meadows."),
    ),
    "图书馆": (
        (LIBRARY_ZH, TEA_ZH),
        ("图书馆几点开门？", "图书馆工作日上午九点开门，晚上六点关门。"),
        ("周末呢？", "周末上午十点开门。"),
        ("那它有多少座位？", "阅览室有四十个座位，冬天有暖气。"),
    ),
    "借书": (
        (LIBRARY_ZH, TEA_ZH),
        ("一次最多可以借几本书？", "每人一次最多借十本书，借期为四周。"),
        ("那逾期怎么收费？", "逾期每天收费一角。"),
    ),
    "云雾茶": (
        (TEA_ZH, LIBRARY_ZH),
        ("采摘什么时候开始？", "采摘在四月初开始，五月底结束。"),
        ("水温呢？", "冲泡时水温以八十度为宜，浸泡三分钟。"),
        ("它可以保存多久？", "茶叶应存放在阴凉干燥的地方，可以保存一年。"),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_follow_up_is_answered_with_what_it_asks(name: str) -> None:
    documents, *exchanges = ANSWERS[name]
    dialogue = Dialogue(*documents)
    assert [await dialogue.ask(question) for question, _ in exchanges] == [answer for _, answer in exchanges]


async def test_a_listing_answers_only_who_asks_for_one() -> None:
    dialogue = Dialogue(HERON)
    assert "async def main()" in await dialogue.ask("Is there an example that reads the moisture from Python?")
    assert await dialogue.ask("What is the moisture of the soil at noon?") == ""
