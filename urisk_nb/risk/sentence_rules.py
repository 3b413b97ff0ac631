"""
What sentences, list items, table rows and page furniture look like: patterns and word classes.

Data only; `evidence.py` applies it. The words are closed classes of English (pronouns, auxiliaries,
prepositions, conjunctions) and abbreviations. No list says what companies do. Each pattern is
linear: where a run could be tried at each of its characters, a lookbehind or a bound prevents it.
"""

from __future__ import annotations

import re

LETTER = re.compile(r"[^\W\d_]")
WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
NOT_LATIN = re.compile(r"[^\W\d_\u0000-\u024f]")

# What stands before a list item: a bullet, which needs no space, or a mark or a label, which do.
BULLETS = (
    "\u2022\u2023\u2043\u2219\u25aa\u25ab\u25a0\u25cf\u25cb\u25e6\u25ba\u27a2\u2756\u2713"
    "\uf0a7\uf0b7"  # of the fonts Wingdings and Symbol
)
# Signs that are bullets at the start of a line only, with a space behind them
_LINE_BULLETS = (
    "\u2022\u2027\u2192\u21d2\u25b6\u25b8\u25c6\u25c7\u25ca\u2605\u2606\u2666\u2714-\u2718\u2751\u2752"
    "\u2794\u279c\u27a4\u27a5\u26ab\u29bf\u2b1b\u2b24\u30fb\u00a7\u00d8\u00ab\u00bb\uf0d8\uf0fc\uf076"
)
ITEM_MARK = re.compile(
    rf"(?:[{BULLETS}\u00b7]\s*|(?:[{_LINE_BULLETS}]\ufe0f?\s+|o\s)(?=[A-Z])|[-*\u2013\u2014#>+]{{1,20}}\s+|-\s?\d{{1,3}}\s?-\s+|o\s{{2,}})+"
)
ITEM_LABEL = re.compile(
    r"\((?:[a-zA-Z]|[ivxIVX]{1,5}|\d{1,3})\)\s*(?=[\w\"\u201c$]|$)|(?:\d{1,2}|[a-z])[.)]\s+"
    r"|(?:[A-Z]|[ivx]{2,4})\)\s+|\[\d{1,2}\]\s+(?=[A-Z])"
)
HEADING = re.compile(r"(?:item|part|note|exhibit|schedule)\s+[\divx]+\b", re.IGNORECASE)

# Where a sentence may end.
OPENERS = "\"'\u201c\u2018(["
CLOSERS = r"\"'\u201d\u2019)\]\u300d\u300f\uff09\u3011"
END = re.compile(rf"[.!?\u2026\u3002\uff01\uff1f\u061f\u0964][{CLOSERS}]*$")
PAUSE = re.compile(r"(?::|;(?:\s+(?:and|or))?)$")  # of an item of a list, or before a list
STOP = re.compile(
    rf"(?<![.!?\u2026])[.!?\u2026]+[{CLOSERS}]*(?:[(\[]\d{{1,2}}[)\]])*(?=\s)"  # and footnotes
    r"|(?<=[a-z]{3})[.!?](?=[A-Z][a-z]*\s)"  # the space was lost
    rf"|[\u3002\uff01\uff1f\uff61\u061f\u0964\u0965\u06d4]+[{CLOSERS}]*(?![{CLOSERS}\u3068\u306e])"
    rf"|\s(?=[{BULLETS}]\s?\w)"
)
AFTER_STOP = re.compile(
    r"\s*[\"'\u201c\u2018(\[]*(?:-\s?\d{1,3}\s?-\s+)?(\d{1,3}[.)]?\s+(?=[A-Z])|\w+)?"
)
DOTTED = re.compile(r"\.[A-Za-z]$")  # "U.S" before its last full stop
CLAUSE_MARK = re.compile(r"(?:[;:,\u2014\u2013]|(?<=\w{4})\))(?=\s)")  # not after "(iv)"
NUMBER_BEGINS = re.compile(r"\s+\d[\d,]*\s+[a-z]")  # "2018 was worse", "34,000 shares were sold"
LINE_HYPHEN = re.compile(r"(?<=\w-)[^\S\n]*\n\s*(?=\w)")

# What is no sentence.
CELL_GAP = re.compile(r"\t+| {4,}|\s\|\s?|\|\s")
NUMBER = re.compile(r"[^\sA-Za-z]*\d[^\s]*|[-\u2013\u2014%$)]+")
LEADERS = re.compile(r"(?:\. ?){5,}[A-Z]{0,2}-?\d*$")  # tried on the end of a line only
TAG = re.compile(r"</?[A-Za-z][^<>]{0,200}>")
CELL_TAG = re.compile(r"</?t[dhr]\b", re.IGNORECASE)
PAGE_LINE = re.compile(
    r"<PAGE>\s*\d*|(?:back to )?\[?table of contents\]?|(?:page\s+)?(?:[A-Z]{1,3}-\s?)?\d{1,3}"
    r"(?:\s+of\s+\d+)?|[-\u2013\u2014]\s?\d{1,3}\s?[-\u2013\u2014]",
    re.IGNORECASE,
)
NUMBERED_HEADER = re.compile(r"\||\bpage\b|\bform\b", re.IGNORECASE)
# An exhibit, a signature, a link, a box to tick.
LISTING = re.compile(
    r"^\d{1,3}\.\d{1,3}[a-z]?\b|\bby\s+reference\b|\bExhibit\s\d|/s/|https?://|[\u2610-\u2612]"
)

_CLAUSE = """
    is are was were am has have had do does did will would can cannot could may might must shall
    should we he she it they isn't aren't wasn't weren't hasn't haven't hadn't doesn't don't didn't
    won't wouldn't can't couldn't shouldn't
"""
_OTHER = """
    be been being who which that there a an the this these those each any all no some such both
    either neither another and or but nor if as than because since while when where whether whose
    what how although though unless until of in on at by to from with for without within into upon
    under over between among against during after before through about per including our us you
    your their them its his her my not however moreover also furthermore additionally accordingly
    consequently further see
"""
_POSSIBLY_LAST = """
    it us you them all each this that these those no any some such what both either also there not
    further
"""
CLAUSE_WORDS = frozenset(_CLAUSE.split())  # a finite auxiliary or a subject: here is a clause
FUNCTION_WORDS = CLAUSE_WORDS | frozenset(_OTHER.split())
NEVER_LAST = FUNCTION_WORDS - frozenset(_POSSIBLY_LAST.split())  # of a sentence or a heading

_WITHIN = """
    Mr Mrs Ms Messrs Dr Prof Hon Rev Gen Sen Rep St No Nos Art Sec Fig Vol Fed Cir Supp Stat Reg
    Dist Ct Lt Col Maj Capt Cmdr Sgt Adm Gov Pres Amb Supt Mt Ft Attn Pty Mfg Natl Univ Hldgs Cl
    Ser Amdt Ch Div Treas Civ Crim Proc Bus Exch Ex Admin Bankr Compl Ala Ariz Ark Colo Conn Fla Ga
    Ind Kan Ky Md Mich Minn Mont Neb Nev Okla Penn Tenn Tex Va Vt Wis Wyo Cal v vs cf approx ca
    e.g i.e p pp viz para paras
"""
_POSSIBLY_END = """
    Inc Corp Ltd Co Cos LLC Bros Jr Sr Dept Assn Intl Ave Blvd Jan Feb Mar Apr Jun Jul Aug Sep Sept
    Oct Nov Dec Pte Avg Calif Mass etc al seq p.m a.m
"""
ABBREVIATIONS = frozenset(_WITHIN.split())  # the full stop after one ends no sentence
LAST_ABBREVIATIONS = frozenset(_POSSIBLY_END.split())  # or only before a word that begins one
