"""Files as people have them, written by a few lines: PDF, Word, filings in HTML."""

from __future__ import annotations

import io
import zlib


def make_pdf(*pages, streams=(), extra=b"", trailer=b"", compress=True):
    """
    Return a PDF file with a line of text for each line of each page, Helvetica 10.

    `streams` are raw drawings of further pages.
    """
    drawings = []
    for page in pages:
        rows = [
            b"1 0 0 1 72 %d Tm (%s) Tj" % (740 - 14 * number, _escape(line))
            for number, line in enumerate(page.split("\n"))
        ]
        drawings.append(b"BT /F1 10 Tf " + b" ".join(rows) + b" ET")
    drawings += streams
    count = len(drawings)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (count, b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(count))),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, drawing in enumerate(drawings):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> %s >> >>" % (5 + 2 * number, extra)
        )
        data = zlib.compress(drawing) if compress else drawing
        kind = b"/Filter /FlateDecode " if compress else b""
        objects.append(b"<< %s/Length %d >>\nstream\n%s\nendstream" % (kind, len(data), data))
    return write_pdf(objects, trailer)


def write_pdf(objects, trailer=b""):
    """Return a PDF file of these objects, the first of which is the catalog."""
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    for place in places:
        out.write(b"%010d 00000 n \n" % place)
    out.write(
        b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n"
        % (len(objects) + 1, trailer, start)
    )
    return out.getvalue()


def _escape(line):
    return line.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def make_docx(*paragraphs, rows=()):
    """Return a Word file with these paragraphs, and a table of these rows behind them."""
    import docx

    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    if rows:
        table = document.add_table(rows=0, cols=len(rows[0]))
        for row in rows:
            for cell, text in zip(table.add_row().cells, row, strict=True):
                cell.text = text
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


FILING = """
UNITED STATES
SECURITIES AND EXCHANGE COMMISSION
Washington, D.C. 20549

FORM 10-K

For the fiscal year ended January 26, 2025

ACME TOOLS INC.

Title of each class
Trading Symbol(s)
Name of each exchange on which registered

Common Stock
ACMT
The Nasdaq Global Select Market

TABLE OF CONTENTS

Item 1.

Business

4

Item 1A.

Risk Factors

9

Item 3.

Legal Proceedings

20

Item 7.

Management's Discussion and Analysis of Financial Condition and Results of Operations

24

Item 9A.

Controls and Procedures

60

PART I

Item 1. Business

We make drills and saws for builders in nine countries. Our plants are in Ohio and Texas.

Item 1A. Risk Factors

A fire could stop one of our plants. As described in
Item 7 of this report, our debt is high.
See also the risks that are named in
Item 3. Legal Proceedings, which follow.

Item 3. Legal Proceedings

On May 3, 2024 a customer sued us over a broken saw. The case is open.

PART II

Item 7. Management's Discussion and Analysis of Financial Condition and Results of Operations

Sales fell by 12 % as two customers left us.

Item 9A. Controls and Procedures

Our controls were not effective, since one person ran all payments.

SIGNATURES

Pursuant to the requirements of Section 13, the registrant has signed this report.

Date: February 28, 2025

/s/ J. Doe
"""
