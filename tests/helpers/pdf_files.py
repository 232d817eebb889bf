"""Small PDF files made by hand, with a Korean font that is not embedded, as files of the years around 2000 have it."""

from __future__ import annotations

from collections.abc import Sequence

FONT = (
    b"<</Type/Font/Subtype/Type0/BaseFont/HYGoThic-Medium/Encoding/KSCms-UHC-H/DescendantFonts[4 0 R]>>",
    b"<</Type/Font/Subtype/CIDFontType0/BaseFont/HYGoThic-Medium/CIDSystemInfo<</Registry(Adobe)/Ordering(Korea1)"
    b"/Supplement 1>>/FontDescriptor 5 0 R/DW 1000>>",
    b"<</Type/FontDescriptor/FontName/HYGoThic-Medium/Flags 4/FontBBox[0 -200 1000 900]/ItalicAngle 0/Ascent 800"
    b"/Descent -200/CapHeight 700/StemV 80>>",
)
# A file whose password nobody knows: what its /O and /U say belongs to no password.
LOCK = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<" + b"41" * 32 + b">/U<" + b"42" * 32 + b">>>/ID[<00><00>]"


def pdf(pages: Sequence[Sequence[str]], is_encrypted: bool = False) -> bytes:
    """A file with these lines on its pages; text is encoded in CP949."""
    numbers = [6 + 2 * k for k in range(len(pages))]  # of the page objects; the object behind each is its content
    kids = b" ".join(b"%d 0 R" % number for number in numbers)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[" + kids + b"]/Count %d>>" % len(pages),
        *FONT,
    ]
    for number, lines in zip(numbers, pages, strict=True):
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R>>"
            % (number + 1)
        )
        shown = b"".join(
            b"BT /F 10 Tf 50 %d Td <%s> Tj ET\n" % (800 - 14 * k, line.encode("cp949").hex().encode())
            for k, line in enumerate(lines)
        )
        objects.append(b"<</Length %d>>stream\n" % len(shown) + shown + b"endstream")
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj" % number + content + b"endobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    lock = LOCK if is_encrypted else b""
    return (
        out + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table
        + b"trailer<</Root 1 0 R/Size %d" % (len(objects) + 1) + lock + b">>\nstartxref\n%d\n%%%%EOF" % len(out)
    )  # fmt: skip
