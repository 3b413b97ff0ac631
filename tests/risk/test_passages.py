"""What the words of a sentence say: kind, family, tags; sentences are invented."""

import time
from datetime import date

import pytest

from urisk_nb.risk.evidence import split
from urisk_nb.risk.families import load_families
from urisk_nb.risk.inputs import Document, Section
from urisk_nb.risk.passages import find_parts, is_filing, read_passages


def read(text, item="Item 7", title="Management's Discussion and Analysis", form="10-K"):
    """The first sentence of a filing's section, as it is read."""
    sections = (Section(name=item, title=title, start=0),)
    document = Document(id="D1", ticker="AAA", text=text, form=form, sections=sections)
    return read_passages(split(document).sentences, load_families())[0]


EVENTS = [
    ("survival", "These losses raise substantial doubt about our ability to go on."),
    ("survival", "On May 4, 2023 we filed voluntary petitions under chapter 11."),
    ("survival", "We do not have sufficient cash to operate beyond March 2024."),
    ("survival", "A receiver was appointed for the Company by the court in June 2023."),
    ("default", "We were in default under the term loan as of year end."),
    ("default", "We did not comply and were not in compliance with the leverage covenant."),
    ("default", "Our lenders signed a forbearance agreement with us in April 2023."),
    ("default", "The Company failed to make the interest payment due on its notes."),
    ("order", "The FDA placed our trial on clinical hold in January 2023."),
    ("order", "In 2023 the Bank entered into a written agreement with the Federal Reserve."),
    ("order", "We pleaded guilty to one count in August 2023."),
    ("accounts", "We identified a material weakness in our internal control in 2023."),
    ("accounts", "Our audit firm KPMG resigned on June 3, 2023."),
    ("accounts", "The annual statements for 2021 should no longer be relied upon."),
    ("listing", "We received a notice from Nasdaq that our shares trade below one dollar."),
    ("accident", "In March 2023 we discovered a ransomware event on our servers."),
    ("strain", "We have a working capital deficit of $4 million."),
    ("loss", "We incurred a net loss of $4 million."),
    ("inquiry", "We received a subpoena from the Department of Justice."),
    ("suits", "A class action was filed against us in June 2023."),
    ("rating", "In May 2023 our credit rating was lowered to B."),
    ("decline", "We recorded a goodwill impairment charge of $9 million."),
    ("default", "Accordingly we have classified the whole term debt as current."),
    ("default", "Under the waiver we must keep $2.0 million in the bank."),
    ("default", "The waiver expires on May 31, 2025."),
    ("default", "We have had losses in three of four years, and our loan falls due in May."),
    ("strain", "Three suppliers now want to be paid in advance."),
    ("strain", "The loan agreement, as changed in May, forbids dividends."),
    ("strain", "At May 31 we had cash of $231,500 and no revolver."),
    ("survival", "We have hired a financial adviser, and are in talks with creditors."),
    ("lean", "Of the $3.1 million that Halden owed us, we have reserved $2.0 million."),
]


@pytest.mark.parametrize(("family", "text"), EVENTS)
def test_an_event(family, text):
    """It says that something bad is so, of the company itself."""
    passage = read(text)
    assert (passage.kind, passage.family.name, passage.tags) == ("event", family, ())
    assert passage.rank > 0


CORE = [
    "We do not believe that our cash, with the loan of May, will be sufficient for a year.",
    "On May 2, 2025, the lenders waived this breach until June 30, 2025, for a fee.",
    "At year end the ratio could not be met, because earnings were negative.",
    "Our plans do not alleviate the substantial doubt about our ability to go on.",
    "Our plans did not fully alleviate substantial doubt as to our being a going concern.",
    "We have not been able to resolve the doubt that we can continue as a going concern.",
    "We have been in default since May 2023, and have not cured it.",
    "Nasdaq notified us in May 2023 of a low bid price, and we have not regained compliance.",
    "We identified a material weakness in 2022 that has not been fully remediated.",
    "We defaulted under the indenture.",
    "We defaulted in the payment of interest on the senior notes.",
    "The lenders declared an event of default under the credit agreement.",
    "Our lender declared us in default.",
    "The lenders have accelerated the maturity of all of our indebtedness.",
    "The agent accelerated all amounts due under our term loan on March 3, 2025.",
    "Our notes have been accelerated.",
    "The noteholders declared all of our notes immediately due and payable.",
    "The bank accelerated repayment of our loan in May 2025.",
]


@pytest.mark.parametrize("text", [text for family, text in EVENTS[:16]] + CORE)
def test_a_decisive_event_is_an_alert(text):
    """The words say the thing itself, of the company."""
    assert read(text).is_alert


@pytest.mark.parametrize(
    "text",
    [
        "If sales fall, we could be in default under our loans.",
        "A material weakness may be found in the future.",
        "We may be subject to a consent order.",
        "Our shares might be delisted from the exchange.",
        "There is a risk that a fire could destroy our plant.",
        "If we defaulted under the indenture, the holders could accelerate the notes.",
    ],
)
def test_a_hypothetical(text):
    """It says that something may be so; it is no alert."""
    passage = read(text)
    assert (passage.kind, passage.is_alert) == ("hypothetical", False)


@pytest.mark.parametrize(
    "text",
    [
        "We are not, and have never been, in default on our loans.",
        "No material weaknesses were found.",
        "There is no substantial doubt about our ability to continue as a going concern.",
        "The auditor has found no substantial doubt about our ability to be a going concern.",
        "This does not raise substantial doubt about our ability to continue as a going concern.",
        "A material weakness is a deficiency that an auditor must report.",
        "Accounting Standards Update 2014-15 speaks of substantial doubt.",
        "Segment income was restated to reflect the new presentation.",
        "Our loans contain customary covenants and events of default.",
        "We sell paper to schools.",
        "Events of default include a missed payment, a false report, and insolvency.",
        "The indenture defines an event of default as a payment missed by ten days.",
        "On May 31, 2024, we had cash of $23.4 million and $9.0 million of room in our revolver.",
        "We were in compliance with the highest leverage ratio and each other covenant.",
        "We estimate obsolescence from the turnover of each item.",
        "We test goodwill for impairment each spring.",
        "Goodwill impairment is tested by comparing fair value with the books.",
        "A waiver by the Company of one breach shall not operate as a waiver of the next.",
        "We believe that our cash will be sufficient for the next twelve months.",
    ],
)
def test_routine(text):
    """Denials, definitions, standards and other ways of showing figures say nothing bad."""
    passage = read(text)
    assert (passage.kind, passage.is_alert) == ("routine", False)
    assert passage.rank < 0


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("third_party", "Our customer Halden filed for chapter 11 in June 2023."),
        ("third_party", "During the case Norvik's chapter 11 plan was approved, and we voted."),
        (
            "third_party",
            "Halden Stores, our main account, filed a petition under chapter 11 in May.",
        ),
        ("third_party", "A dealer in Spain filed for bankruptcy in May, and sales declined there."),
        ("third_party", "In 2023 we wrote down our share in a startup which filed for bankruptcy."),
        ("third_party", "In May 2023 we signed a forbearance agreement: we agreed to forbear."),
        ("third_party", "Our tenant defaulted under its lease with us in 2023."),
        ("resolved", "In June 2023 the court dismissed the complaint with prejudice."),
        ("resolved", "The Commission closed its inquiry in May 2023 and took no action."),
        ("resolved", "The material weakness was remediated in 2023."),
        ("resolved", "We have regained compliance with the minimum bid rule."),
    ],
)
def test_another_s_case_and_what_is_over(tag, text):
    """They are read, with a tag, and are no alert."""
    passage = read(text)
    assert (passage.kind, passage.tags, passage.is_alert) == ("event", (tag,), False)


def test_what_is_over_is_asked_after_what_is_not():
    """And still asked: a reader may want to know how it ended."""
    open_, over = "We identified a material weakness.", "The material weakness was remediated."
    assert read(open_).rank > read(over).rank > 0


def test_it_is_the_company_where_no_one_else_is_named():
    """By the sentences before: a supplier's debt is a supplier's."""
    debt = " Its loan is due in May 2024, and it does not have sufficient cash to repay it."
    tags = {}
    for before in ("The Company makes cans.", "A supplier makes cans.", "Halden Corp. makes cans."):
        document = Document(id="D1", ticker="A", text=before + debt, form="10-K")
        passage = read_passages(split(document).sentences, load_families())[-1]
        tags[before] = (passage.kind, passage.tags)
    own, *others = tags.values()
    assert own == ("event", ())
    assert others == [("event", ("third_party",))] * 2


def test_what_is_three_years_old_is_tagged():
    """By the newest year in the sentence against the year that the document names most."""
    rest = " Sales were flat in 2023." * 6
    assert read("We were in default in 2019." + rest).tags == ("old",)
    assert read("We were in default in 2022." + rest).tags == ()
    assert read("We have been in default since 2019." + rest).tags == ()


def test_the_period_of_the_cover_comes_before_the_years_that_are_named():
    """Debt that matures later names more years; a year that ends in January is the one before."""
    text = "We were in default in 2021." + " The notes mature in 2027." * 9
    tags = []
    for end in (None, date(2023, 12, 31), date(2024, 1, 28), date(2024, 12, 31)):
        document = Document(id="D1", ticker="A", text=text, form="10-K", period_end=end)
        tags.append(read_passages(split(document).sentences, load_families())[0].tags)
    assert tags == [("old",), (), (), ("old",)]


def test_the_month_is_no_modal():
    """May 4 is a date, and may is not."""
    assert read("On May 4, 2023 we were in default.").kind == "event"
    assert read("In future we may be in default.").kind == "hypothetical"


@pytest.mark.parametrize(
    ("item", "title", "text", "kind"),
    [
        ("Item 11", "Executive Compensation", "Bonuses fell; sales declined.", "routine"),
        ("Item 15", "Exhibits", "We were delisted in 2023.", "routine"),
        ("Item 9A", "Controls and Procedures", "We found a material weakness in 2023.", "event"),
        ("Item 9A", "Controls and Procedures", "We recorded a loss on disposal.", "routine"),
        ("Item 5", "Market for Registrant's Common Equity", "We were delisted in May.", "event"),
    ],
)
def test_dropped_sections_keep_decisive_events(item, title, text, kind):
    """Exhibits, people and the like say nothing but what decides."""
    assert read(text, item, title).kind == kind


def test_parts_of_a_filing():
    """The cover comes first; an auditor's report is found inside of the statements."""
    text = "Form 10-K\nItem 1\nWe sell.\nItem 3\nWe sue.\nItem 8\nTables.\n"
    report = "REPORT OF INDEPENDENT ACCOUNTANTS\n" + "We have audited. " * 40 + "/s/ Firm\nNotes.\n"
    names = [("Item 1", "Business"), ("Item 3", "Legal Proceedings"), ("Item 8", "")]
    sections = tuple(
        Section(name=name, title=title, start=text.index(name)) for name, title in names
    )
    document = Document(id="D1", ticker="A", text=text + report, form="10-K", sections=sections)
    parts = [name for _, name in find_parts(document)]
    assert parts == ["cover", "business", "legal", "statements", "auditor", "statements"]


def test_several_reports_of_auditors_end_each_by_itself():
    """At what follows it, or where none does after a while; so also behind one without an end."""
    sign, report = "/s/ Firm\n", "Report of Independent Firm\n" + "We have audited. " * 40
    texts = [report + sign + "Notes. " * 100, report + sign, "We sell. " * 3000, report]
    text = "\n".join(texts)
    parts = find_parts(Document(id="D1", ticker="A", text=text, form="10-K", sections=()))
    first = text.index(sign) + len("/s/")
    second = text.index(sign, first) + len("/s/")
    assert parts == [
        (0, "auditor"),
        (first, "body"),
        (text.index("Report", 1), "auditor"),
        (second, "body"),
        (text.rindex("Report"), "auditor"),
        (len(text), "body"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    ["   \n" * 2000, "Report of independent firms\n" * 8000, "-- \n(" * 1600],
    ids=["blank lines", "one heading again and again", "dashes"],
)
def test_no_document_takes_long(text):
    """As a damaged file may have it; a search that tries each start with each end takes minutes."""
    began_s = time.process_time()
    document = Document(id="D1", ticker="A", text=f"{text}\nWe were in default.", form="10-K")
    read_passages(split(document).sentences, load_families())
    assert time.process_time() - began_s < 10


def test_a_note_is_about_its_company():
    """News says no "we"; a filing's other names are others."""
    assert read("Acme filed for chapter 11 in June 2023.", form=None, item="page 1").is_alert
    assert not read("Acme filed for chapter 11 in June 2023.").is_alert
    long = "Acme filed for chapter 11 in June 2023. " + "We sell tea. " * 2000
    assert not read(long, form=None, item="page 1").is_alert
    assert not is_filing(Document(id="D1", ticker="A", text="x"))
    assert is_filing(Document(id="D1", ticker="A", text="x", form="8-K"))


def test_two_thousand_sentences_are_read_fast():
    """In a second and a half of one core."""
    texts = [text for _, text in EVENTS]
    text = " ".join(f"{texts[number % len(texts)]} Note {number} ends." for number in range(1040))
    document = Document(id="D1", ticker="A", text=text, form="10-K")
    sentences = split(document).sentences
    assert len(sentences) >= 2000
    families = load_families()
    began = time.process_time()
    read_passages(sentences, families)
    assert time.process_time() - began < 1.5


BOILERPLATE = [
    "The agency has broad powers, including the ability to recall products.",
    "The Board has determined under New York Stock Exchange rules that six members are free.",
    "We have posted our code of ethics and will disclose any waiver and every violation.",
    "In May 2023 the amendment and restatement of the credit agreement was signed.",
    "We withdrew our registration statement in June 2023.",
    "Its risk-based capital was far above the company action level.",
    "Typically, we will not lend to a company that has filed for bankruptcy.",
    "Management should disclose conditions that raised substantial doubt.",
    "One director failed to file on time a report that Section 16(a) requires.",
    "The loss was estimated from the probability of default.",
    "The agreement and plan of reorganization was signed in May 2023.",
    "We accelerated the repayment of our term loan with cash on hand.",
    "The write-off of debt issuance costs was accelerated when we repaid the notes.",
    "The banks accelerated their lending in the second quarter of 2023.",
    "The administrative agent has not declared an event of default.",
    "The Board declared that no default exists under our credit agreement.",
    "Upon a default our lenders may have our notes declared due and payable.",
]


@pytest.mark.parametrize("text", BOILERPLATE)
def test_what_every_filing_says_is_no_alert(text):
    """Boards, codes, agreements and standards have the words, and say nothing bad."""
    assert not read(text).is_alert


INDUSTRIES = [
    "The FDIC issued a consent order that requires the Bank to raise capital in 2023.",
    "We experienced significant deposit outflows in March 2023.",
    "A.M. Best downgraded our financial strength rating to B+ in 2023.",
    "Our trial did not meet its primary endpoint in 2023.",
    "Our lenders reduced our borrowing base to $40 million.",
    "Vendors have tightened trade credit, and some require cash in advance.",
    "The lender commenced foreclosure on our hotel in Lund.",
    "We halted customer withdrawals in November 2022.",
    "We are a shell company with nominal assets.",
    "The state denied our request to recover storm costs in rates.",
    "We have suspended drilling because prices fell.",
    "We laid off 60% of our employees in January 2024.",
    "The government revoked our mining concession.",
    "Our cash will be exhausted by August 2024.",
]


@pytest.mark.parametrize("text", INDUSTRIES)
def test_each_industry_says_it_in_its_own_words(text):
    """Banks, insurers, biotech, oil and gas, retail, property, crypto, shells, utilities, mines."""
    passage = read(text)
    assert (passage.kind, passage.rank > 0) == ("event", True)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Acme may lose its largest customer.", "hypothetical"),
        ("Regulators could fine Acme.", "hypothetical"),
        ("Unless rates fall, Acme will close two plants.", "hypothetical"),
        ("Acme closed two plants, which could cost $4 million.", "event"),
        ("Acme halts its line in Bonn, could lose $4 million a day.", "routine"),
        ("Data of 87 million people may have been shared.", "routine"),
        ("Acme said it would close two plants.", "routine"),
        ("The Commission opened an inquiry into whether Acme broke the law.", "routine"),
        ("Acme sells tea.", "routine"),
    ],
)
def test_a_hypothetical_in_news(text, kind):
    """Nothing has happened before its modal verb; news says what has, and then what may."""
    note = Document(id="N1", ticker="AAA", text=text, kind="news")
    (passage,) = read_passages(split(note).sentences, load_families())
    assert passage.kind == kind
