"""What a tokenizer tells of the languages its model learned: a vocabulary has its own languages' words whole.

Words of other languages come out in splinters, Chinese in single characters, scripts it hardly met as
unknown: all that the model never saw together as a word. That holds for vocabularies of one language or a
few. Those made of a hundred (``MANY_LANGUAGES`` entries and more) cut the words of each of them; there only
what is unknown altogether counts against a text.
"""

from __future__ import annotations

from typing import Final

from tokenizers import Tokenizer

MANY_LANGUAGES: Final = 100_000
_UNKNOWN: Final = frozenset({"[UNK]", "<unk>"})


def knowledge(tokenizer: Tokenizer, text: str) -> float:
    """The share of a text's letters that stand in words of two or more that the vocabulary has whole.

    Numbers don't count, they are of every language. Of a large vocabulary: the share in known pieces.
    """
    many = tokenizer.get_vocab_size() >= MANY_LANGUAGES
    encoding = tokenizer.encode(text, add_special_tokens=False)
    pieces: dict[int, list[str]] = {}
    letters: dict[int, int] = {}
    known_letters = 0
    for token, (start, end), word in zip(encoding.tokens, encoding.offsets, encoding.word_ids, strict=True):
        if word is not None and any(map(str.isalpha, text[start:end])):
            pieces.setdefault(word, []).append(token)
            letters[word] = letters.get(word, 0) + end - start
            known_letters += (end - start) * (token not in _UNKNOWN)
    total = max(1, sum(letters.values()))
    if many:
        return known_letters / total
    return sum(letters[word] for word, parts in pieces.items() if _whole(parts)) / total


def _whole(pieces: list[str]) -> bool:
    return len(pieces) == 1 and len(pieces[0]) > 1 and pieces[0] not in _UNKNOWN
