"""Files to read: PDFs written object by object, so that a test can also write what no tool would; Word files by
python-docx, and zips that are none."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import docx

TEXT_SIZE = 11.0
Lines = Sequence[tuple[float, str]]  # letters' size in points, words; no words: a wider gap


def pdf(pages: Sequence[Lines], *, title: str = "", outline: Sequence[tuple[str, int]] = ()) -> bytes:
    """A PDF. ``outline`` has titles and the pages, from 0, that they lead to."""
    first = 10 + len(outline)
    numbers = [first + 2 * at for at in range(len(pages))]
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R" + (b" /Outlines 9 0 R" if outline else b"") + b" >>",
        2: b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(pages), b" ".join(b"%d 0 R" % n for n in numbers)),
        # two bytes a letter, UTF-16: any language in one font
        3: b"<< /Type /Font /Subtype /Type0 /BaseFont /STSong /Encoding /UniGB-UCS2-H /DescendantFonts [4 0 R] >>",
        4: b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong /FontDescriptor 5 0 R /DW 500 /CIDSystemInfo "
        b"<< /Registry (Adobe) /Ordering (GB1) /Supplement 4 >> >>",
        5: b"<< /Type /FontDescriptor /FontName /STSong /Flags 4 /FontBBox [0 0 1000 1000] /ItalicAngle 0 /Ascent 880 "
        b"/Descent -120 /CapHeight 880 /StemV 93 >>",
        6: b"<< /Title <feff%s> >>" % title.encode("utf-16-be").hex().encode(),
    }
    for number, lines in zip(numbers, pages, strict=True):
        objects[number] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F 3 0 R >> >> "
            b"/Contents %d 0 R >>" % (number + 1)
        )
        objects[number + 1] = stream(zlib.compress(_drawn(lines)), b"/Filter /FlateDecode")
    if outline:
        objects[9] = b"<< /Type /Outlines /First 10 0 R /Last %d 0 R >>" % (first - 1)
    for at, (name, page) in enumerate(outline, 10):
        after = b" /Next %d 0 R" % (at + 1) if at + 1 < first else b""
        words = name.encode("utf-16-be").hex().encode()
        objects[at] = b"<< /Title <feff%s> /Parent 9 0 R /Dest [%d 0 R /Fit]%s >>" % (words, numbers[page], after)
    return written(objects)


def page_of_words(words: str, *, heading: str = "") -> Lines:
    """Lines of a page."""
    lines = [(18.0, heading)] if heading else []
    return [*lines, *((TEXT_SIZE, words[at : at + 80]) for at in range(0, len(words), 80))]


def stream(data: bytes, more: bytes = b"") -> bytes:
    """The body of a stream object."""
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), more, data)


def written(objects: Mapping[int, bytes], trailer: bytes = b"/Root 1 0 R /Info 6 0 R") -> bytes:
    """Objects by number as a file, with its table and its end."""
    out = io.BytesIO()
    out.write(b"%PDF-1.7\n")
    places = {}
    for number, body in sorted(objects.items()):
        places[number] = out.tell()
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    table = out.tell()
    size = max(objects) + 1
    out.write(b"xref\n0 %d\n" % size)
    for number in range(size):
        out.write(b"%010d %05d n \n" % (places[number], 0) if number in places else b"%010d %05d f \n" % (0, 65535))
    out.write(b"trailer\n<< /Size %d %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, table))
    return out.getvalue()


def word(*paragraphs: tuple[str, str], title: str = "", table: Sequence[Sequence[str]] = ()) -> bytes:
    """A docx of paragraphs with their styles ('' for plain ones), and a table at its end."""
    document = docx.Document()
    document.core_properties.title = title
    for style, text in paragraphs:
        document.add_paragraph(text, style=style or None)
    if table:
        made = document.add_table(len(table), len(table[0]))
        for row, cells in enumerate(table):
            for column, text in enumerate(cells):
                made.cell(row, column).text = text
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def zipped(parts: Mapping[str, bytes]) -> bytes:
    """A zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


def _drawn(lines: Lines) -> bytes:
    y = 800.0
    drawn = []
    for size, words in lines:
        y -= size * 1.4
        drawn.append(f"BT /F {size} Tf 1 0 0 1 50 {y:.1f} Tm <{words.encode('utf-16-be').hex()}> Tj ET")
    return "\n".join(drawn).encode()
