"""Encodings: what people's files are in is read, what is no text is refused."""

from __future__ import annotations

import codecs
import random
import zlib

import pytest

from services.retriever.documents.charsets import decode
from weft.errors import WeftError

FRENCH = "Le café est fermé; à bientôt, élève. Où êtes-vous passée hier soir?"
GERMAN = "Die Größe des Puffers beträgt 4 KB – „ungefähr“ so viel wie früher."
RUSSIAN = "Это обычный русский текст о настройке сервера и о том, как его запустить."
CHINESE = "控制平面保存服务目录,并把它推送给每个客户端。配置错误时服务不会启动。"
TRADITIONAL = "控制平面保存服務目錄,並把它推送給每個客戶端。設定錯誤時服務不會啟動。"
JAPANESE = "コントロールプレーンはサービスの一覧を保存し、各クライアントに配布します。"
KOREAN = "제어 평면은 서비스 목록을 저장하고 각 클라이언트에 전달합니다."


def refusal(data: bytes, *declared: str) -> WeftError:
    with pytest.raises(WeftError) as caught:
        decode(data, *declared)
    assert caught.value.reason == "DOCUMENT_UNREADABLE"
    return caught.value


@pytest.mark.parametrize("times", [1, 200])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "latin-1"),
        (GERMAN, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (CHINESE, "gb18030"),
        (CHINESE, "gbk"),
        (TRADITIONAL, "big5"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (KOREAN, "euc_kr"),
        (FRENCH, "utf-16-le"),
        (FRENCH, "utf-16-be"),
        ("caf\u00e9", "latin-1"),
        ("你好,世界", "gb18030"),
        ("It’s plain but for one mark", "cp1252"),
    ],
)
def test_a_text_without_a_mark_is_read_in_its_encoding(text: str, encoding: str, times: int) -> None:
    text = "\n".join([text] * times)
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize("text", [FRENCH, CHINESE, ""])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_mark_says_what_follows_and_goes(mark: bytes, encoding: str, text: str) -> None:
    assert decode(mark + text.encode(encoding)) == text


def test_the_first_letter_that_is_not_ascii_may_come_late() -> None:
    text = "Plain words.\n" * 20_000 + CHINESE
    assert decode(text.encode("gb18030")) == text


def test_what_was_declared_goes_before_a_guess_but_not_before_utf8() -> None:
    turkish = "ışık"
    assert decode(turkish.encode("cp1254"), "", "iso-8859-9") == turkish
    assert decode(turkish.encode(), "iso-8859-9") == turkish


@pytest.mark.parametrize("declared", ["klingon", "rot13", "hex", "utf-8", "a\0b", "gb18030"])
def test_a_declaration_that_is_wrong_does_no_harm(declared: str) -> None:
    assert decode(GERMAN.encode("cp1252"), declared) == GERMAN


def test_utf8_with_a_broken_byte_is_named_with_its_place_rather_than_misread() -> None:
    data = CHINESE.encode()
    err = refusal(data[:30] + b"\xff" + data[30:])
    assert (err.metadata["byte_offset"], err.metadata["byte"]) == ("30", "0xff")
    assert "UTF-8" in err.message


def test_a_marked_text_that_is_cut_short_is_refused() -> None:
    assert "UTF-16-LE" in refusal(codecs.BOM_UTF16_LE + "text".encode("utf-16-le")[:-1]).message


def test_a_binary_file_is_not_text() -> None:
    assert refusal(b"\x7fELF\x02\x00\x01").metadata["position"] == "5"
    refusal(b"\x89PNG\r\n\x1a\n\x01\x02\x03")
    refusal(b"\x1f\x8b\x08" + zlib.compress(bytes(range(256)) * 9))


def test_random_bytes_are_refused() -> None:
    rng = random.Random(7)
    for _ in range(100):
        refusal(rng.randbytes(rng.choice([50, 500, 20_000])))
