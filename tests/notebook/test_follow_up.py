"""
`%%ask` with values, and one question after the other: what is sent, within the context window, and
what is said of it. The answers are SCRIPTED.
"""

import gc
import itertools
import re
import weakref
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from ask_driver import Rule, notebook
from table_maker import table_of_two
from urisk_nb.chat.prompts import HOUSE_PROMPT
from urisk_nb.errors import AnswerInvalid, ContextExceeded, InputError, ServerInternalError
from urisk_nb.llm.answers import AnswerStream
from urisk_nb.notebook import ask, magics

LONG = "A question of some length about the risks of a maker of chips and of its customers. " * 6


@pytest.fixture
def open_notebook(monkeypatch, capsys):
    """Open one notebook with these rules and settings; it is closed after the test."""
    opened = []

    def start(*rules, **how):
        opened.append(notebook(monkeypatch, capsys, *rules, **how))
        return opened[-1].__enter__()

    yield start
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture(scope="module")
def table():
    return table_of_two()


# Values -------------------------------------------------------------------------------------------


def test_why_is_tsla_severe(open_notebook, table):
    """
    The message has TSLA's explanation and its sentences, first; an answer may cite them, and an id
    that does not exist is struck.
    """
    cell = open_notebook(Rule(contains="TSLA", answer="A fine [S1] and a default [S99]."))
    cell.shell.user_ns["table"] = table
    shown = cell.ask("Why is TSLA Severe?", "answer --with table")
    (system, house), (user, text) = cell.sent
    assert (system, house, user) == ("system", HOUSE_PROMPT, "user")
    assert text.endswith("\n\nWhy is TSLA Severe?")
    assert "the score of TSLA comes from: legal rated 5 of 5" in text
    assert '[S1] TSLA, legal 5: "TSLA was fined $3 billion."' in text
    assert "It defaulted on its bonds." in text
    answer = cell.shell.user_ns["answer"]
    assert [one.quote for one in answer.citations] == ["TSLA was fined $3 billion."]
    assert answer.unknown_citations == ("S99",)
    assert str(answer) == "A fine [S1] and a default [S99]."
    assert "A fine [S1] and a default [~~S99~~]." in shown
    assert "cites 1 sentence; 1 id does not exist and is struck" in shown


def test_raw_strikes_nothing(open_notebook, table):
    """The text is as the model wrote it; the line says what is wrong with it."""
    cell = open_notebook(Rule(answer="So [S99]."))
    cell.shell.user_ns["table"] = table
    shown = cell.ask("Why?", "--with table --raw")
    assert "~~" not in shown
    assert "1 id does not exist" in shown


def test_the_line_says_what_was_cut(open_notebook):
    """And the request keeps the window with its answer, whatever the size of the values."""
    cell = open_notebook(num_ctx=2048)
    cell.shell.user_ns |= {
        "news": [f"Headline number {number} of the wire" for number in range(340)],
        "px": pd.DataFrame({"A": range(1000)}, index=pd.bdate_range("2018", periods=1000)),
        "note": "word " * 100_000,
    }
    shown = cell.ask("Well?", "--with news,px,note")
    assert re.search(r"news: \d+ of 340 items", shown)
    assert re.search(r"px: \d+ of 1,000 rows", shown)
    assert re.search(r"note: [\d,]+ of 500,000 characters", shown)
    (call,) = cell.backend.calls
    assert cell.backend.count(call) + call.options["num_predict"] <= 2048


@pytest.mark.parametrize(
    ("line", "said", "fix"),
    [
        ("--with tabel", "there is no variable 'tabel'", "did you mean --with table?"),
        ("--with table,", "a name is missing", "--with table,news"),
        ("--with ./no.csv", "no.csv does not exist", "a file that is there"),
        ("--with px=3", "'px=3' is neither a variable nor a file", "assign the value in a cell"),
        ('--with "table[0:"', "neither a variable nor a file", "give its name: --with table"),
        ('--with table["x"]', "fails: KeyError", "a cell of its own"),
        ("--with table news", "one word, or a text in quotation marks", "--with table,news"),
        ("--with table, news", "'news' is left over", "write --with table,news"),
        ("--json risk", "no variable 'risk'", '--json "ticker:str, risk:float"; or assign'),
        ("--with table out", "'out' is left over", "%%ask out --with table"),
    ],
)
def test_a_wrong_name_is_an_error_before_any_server(open_notebook, table, line, said, fix):
    """With the close name."""
    cell = open_notebook()
    cell.shell.user_ns["table"] = table
    with pytest.raises(InputError) as caught:
        cell.ask("Well?", line)
    assert said in caught.value.message
    assert fix in caught.value.fix
    assert cell.backend.calls == []


def test_an_interrupt_while_the_journal_is_read_is_one_line(open_notebook, monkeypatch, tmp_path):
    """The file may be locked by another program; nothing was asked."""
    monkeypatch.setenv("URISK_JOURNAL", str(tmp_path / "journal.sqlite3"))
    cell = open_notebook()
    monkeypatch.setattr(ask, "find_known_answer", _interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        cell.ask("Well?", "--cached")
    (line,) = caught.value._render_traceback_()
    assert line.endswith("before the model was asked.")
    assert cell.backend.calls == []


def _interrupt(*_given):
    raise KeyboardInterrupt


def test_braces_around_a_name_are_passed_over(open_notebook):
    """`{note}` is the value in the cell, too."""
    cell = open_notebook()
    cell.shell.user_ns.update(note="what it says", px=pd.DataFrame({"A": [1.5]}))
    cell.ask("Well?", "--with {note},{px}")
    assert ": note, text, 12 characters>>\nwhat it says\n" in cell.sent[1][1]
    assert "A: min 1.5" in cell.sent[1][1]


def test_a_second_flag_adds_to_the_first(open_notebook):
    """Nothing that is named is left out."""
    cell = open_notebook()
    cell.shell.user_ns.update(x="the first value", y="the second value")
    cell.ask("Well?", "--with x --with y")
    assert "the first value" in cell.sent[1][1]
    assert "the second value" in cell.sent[1][1]


def test_an_answer_that_is_no_data_has_the_line_of_what_was_cut(open_notebook, capsys):
    """What was left out may be why it does not fit."""
    cell = open_notebook(Rule(answer="No."), num_ctx=1024)
    cell.shell.user_ns["note"] = "word " * 10_000
    with pytest.raises(AnswerInvalid):
        cell.ask("Why?", "--json why:str --with note --max-tokens 64")
    assert re.search(r"note: [\d,]+ of 50,000 characters", capsys.readouterr().out)


def test_data_may_cite_what_was_attached(open_notebook):
    """`_answer` has the sentences; nothing is struck in data."""
    cell = open_notebook(Rule(answer='{"why": "a fine [S1], a loss [S9]"}'))
    cell.shell.user_ns["news"] = ["The company was fined by a court."]
    shown = cell.ask("Why?", "found --json why:str --with news")
    assert cell.shell.user_ns["found"] == {"why": "a fine [S1], a loss [S9]"}
    (one,) = cell.shell.user_ns["_answer"].citations
    assert one.quote == "The company was fined by a court."
    assert "cites 1 sentence; 1 id does not exist" in shown
    assert "struck" not in shown


def test_expressions_and_files_go_with_a_question(open_notebook, tmp_path):
    """Commas in brackets separate nothing."""
    cell = open_notebook()
    cell.shell.user_ns["px"] = pd.DataFrame({"A": [1.5], "B": [2.5], "C": [3.5]})
    (tmp_path / "note.md").write_text("The words of a note.")
    cell.ask("Well?", f'--with px[["A","B"]],{tmp_path}/note.md')
    text = cell.sent[-1][1]
    assert "DataFrame, 1 row x 2 columns" in text
    assert "The words of a note." in text


# Conversation -------------------------------------------------------------------------------------


def test_a_question_goes_on_with_the_conversation(open_notebook):
    """Question, answer, question; the line counts the turns."""
    cell = open_notebook(Rule(contains="One", answer="First."), Rule(answer="Second."))
    assert "turn" not in cell.ask("One?")
    assert "turn 2" in cell.ask("Two?")
    assert cell.sent[1:] == [("user", "One?"), ("assistant", "First."), ("user", "Two?")]
    shown = cell.chat()
    assert all(one in shown for one in ("question 1", "One?", "First.", "Two?", "Second."))


def test_a_question_alone_is_not_remembered(open_notebook):
    """`--no-history` neither sends nor keeps; `off` does so until `on`; `reset` forgets."""
    cell = open_notebook(Rule(answer="Yes."))
    cell.ask("One?")
    cell.ask("Two?", "--no-history")
    assert [text for _, text in cell.sent] == [HOUSE_PROMPT, "Two?"]
    assert "off" in cell.chat("off")
    cell.ask("Three?")
    assert len(cell.sent) == 2
    cell.chat("on")
    cell.ask("Four?")
    assert [text for _, text in cell.sent[1:]] == ["One?", "Yes.", "Four?"]
    assert "2 turns forgotten" in cell.chat("reset")
    cell.ask("Five?")
    assert len(cell.sent) == 2
    with pytest.raises(InputError, match="none of show, reset, off, on"):
        cell.chat("again")


@pytest.mark.parametrize(
    ("line", "variable", "system"),
    [
        ("", None, HOUSE_PROMPT),
        ("--system brief", None, "brief"),
        ('--system ""', None, None),
        ("", "be kind", "be kind"),
        ("", "off", None),
        ("--system brief", "off", "brief"),
    ],
)
def test_the_system_prompt_is_the_users(open_notebook, monkeypatch, line, variable, system):
    """Of this question, of the environment, or none; the conversation goes on."""
    cell = open_notebook()
    cell.ask("One?")
    if variable is not None:
        monkeypatch.setenv("URISK_SYSTEM_PROMPT", variable)
    cell.ask("Two?", line)
    first = [text for role, text in cell.sent if role == "system"]
    assert first == ([system] if system else [])
    assert [role for role, _ in cell.sent if role != "system"] == ["user", "assistant", "user"]


def test_a_line_may_have_no_system_prompt(open_notebook):
    """An empty text in quotation marks is a value, in a line as in a cell."""
    cell = open_notebook(Rule(answer="Yes."))
    assert magics.run(cell.shell, "ask", '--system "" Well?', None) == "Yes."
    assert cell.sent == [("user", "Well?")]


@pytest.mark.parametrize("line", ["--with -- Well?", "--system --raw Well?"])
def test_a_flag_is_no_value_of_the_flag_before_it(open_notebook, line):
    """A line says so as a cell does."""
    cell = open_notebook()
    with pytest.raises(InputError, match="expected one argument"):
        magics.run(cell.shell, "ask", line, None)


def test_what_was_attached_stays_and_is_replaced_by_its_new_value(open_notebook):
    """A follow-up needs no second `--with`; the same name again has its new value, once."""
    cell = open_notebook()
    cell.shell.user_ns["x"] = "the first value"
    cell.ask("One?", "--with x")
    cell.ask("Two?")
    assert "the first value" in cell.sent[1][1]
    cell.shell.user_ns["x"] = "the second value"
    cell.ask("Three?", "--with x")
    whole = "".join(text for _, text in cell.sent)
    assert "the first value" not in whole
    assert whole.count("the second value") == 1
    shown = cell.chat("show")
    assert "Three? (with x)" in shown
    assert "One? (with x)" not in shown


def test_a_follow_up_about_another_ticker_gets_what_it_needs(open_notebook, table):
    """
    Beside what was sent, which stays as it is: the server's cache has it. What is there already is
    not sent again, and a question that names nothing gets nothing more.
    """
    cell = open_notebook(num_ctx=16384)
    cell.shell.user_ns["table"] = table
    cell.ask("Why is TSLA Severe?", "--with table")
    first = cell.sent
    assert "the score of AAA" not in first[-1][1]
    shown = cell.ask("And AAA?")
    assert cell.sent[: len(first)] == first
    assert "table: more for this question" in shown
    more = cell.sent[-1][1]
    assert ": table, more of it, for this question>>\n" in more
    assert "AAA: level" in more
    quotes = re.findall(r'\[S\d+\] (AAA, .*?"[^"]*")', "".join(text for _, text in cell.sent))
    assert len(quotes) == len(set(quotes)) > 0
    second = cell.sent
    shown = cell.ask("And AAA again, please?")
    assert cell.sent[: len(second)] == second
    assert cell.sent[-1][1] == "And AAA again, please?"
    assert "more for this question" not in shown
    cell.ask("Thanks. What else?")
    assert cell.sent[-1][1] == "Thanks. What else?"


def test_a_follow_up_finds_the_items_of_a_list_that_were_cut(open_notebook):
    """They are cited by their own ids; a variable that is another object by then has no more."""
    cell = open_notebook(num_ctx=1024)
    news = [f"Headline number {number} of the wire about AAA" for number in range(200)]
    news.append("The court fined ZZZ for its prices.")
    cell.shell.user_ns["news"] = news
    cell.ask("Well?", "--with news --max-tokens 64")
    assert "ZZZ" not in cell.sent[-1][1]
    cell.ask("What of ZZZ?", "--max-tokens 64")
    assert re.search(r"\[S\d+\] The court fined ZZZ for its prices\.", cell.sent[-1][1])
    cell.chat("reset")
    cell.ask("Well?", "--with news --max-tokens 64")
    cell.shell.user_ns["news"] = list(news)
    cell.ask("What of ZZZ?", "--max-tokens 64")
    assert cell.sent[-1][1] == "What of ZZZ?"


def test_a_follow_up_about_another_column_gets_its_figures(open_notebook):
    """Of a wide frame the first columns are told, and those that a question names."""
    cell = open_notebook(num_ctx=8192)
    wide = {f"C{number}": [number + 0.25, number + 0.75] for number in range(40)}
    cell.shell.user_ns["px"] = pd.DataFrame(wide, index=pd.bdate_range("2024", periods=2))
    cell.ask("What of C30?", "--with px")
    assert "C30: min 30.25" in cell.sent[-1][1]
    assert "C35: min" not in cell.sent[-1][1]
    cell.ask("And of C35?")
    assert "C35: min 35.25, mean 35.5, max 35.75" in cell.sent[-1][1]
    assert "C30" not in cell.sent[-1][1]


def test_a_value_is_not_kept_by_the_conversation(open_notebook):
    """A notebook that deletes a large frame has its memory back."""
    cell = open_notebook()
    frame = pd.DataFrame({"text": ["The company AAA was fined by a court."] * 3})
    gone = weakref.ref(frame)
    cell.shell.user_ns["frame"] = frame
    cell.ask("Well?", "--with frame")
    del frame, cell.shell.user_ns["frame"]
    gc.collect()
    assert gone() is None
    cell.ask("And AAA?")
    assert cell.sent[-1][1] == "And AAA?"


def test_the_same_value_again_stays_where_it_is(open_notebook):
    """So the server finds the whole conversation in its cache; a changed value is sent anew."""
    cell = open_notebook()
    cell.shell.user_ns["px"] = pd.DataFrame({"A": [1.5, 2.5]})
    cell.ask("One?", "--with px")
    first = cell.sent
    cell.ask("Two?", "--with px")
    assert cell.sent[: len(first)] == first
    assert cell.sent[-1] == ("user", "Two?")
    cell.shell.user_ns["px"].loc[0, "A"] = 9.5
    cell.ask("Three?", "--with px")
    assert "9.5" in cell.sent[-1][1]
    assert "<<attachment" not in cell.sent[1][1]


def test_data_is_a_turn_as_well(open_notebook):
    """`--json` sends values and the conversation, and the next question goes on with its answer."""
    cell = open_notebook(Rule(contains="data", answer='{"risk": "legal"}'), Rule(answer="Fine."))
    cell.shell.user_ns["note"] = "the words of a note"
    cell.ask("One?")
    before = cell.sent
    shown = cell.ask("Now as data.", "found --json risk:str --with note")
    assert cell.shell.user_ns["found"] == {"risk": "legal"}
    assert "turn 2" in shown
    roles = [role for role, _ in cell.sent]
    assert roles == ["system", "user", "assistant", "user"]
    # The form is told behind the question: the server's cache has all that stands before it
    assert cell.sent[: len(before)] == before
    attached, _, form = cell.sent[-1][1].partition("Now as data.")
    assert "the words of a note" in attached
    assert "JSON" in form
    cell.ask("Why?")
    assert cell.sent[: len(before)] == before
    assert cell.sent[3][1].startswith(attached)
    assert cell.sent[-2] == ("assistant", '{"risk": "legal"}')
    with pytest.raises(InputError, match="--cached does not go with --json"):
        cell.ask("Well?", "--json risk:str --cached")


def test_questions_of_several_threads_are_all_kept(open_notebook):
    """They are on their way together; each is a turn with its own answer and its own ids."""
    rules = [Rule(contains=f"q{number}?", answer=f"a{number}", first_ms=300) for number in range(4)]
    cell = open_notebook(*rules)
    sentences = [f"The company number {number} was fined by a court." for number in range(4)]
    cell.shell.user_ns |= {f"v{number}": [text] for number, text in enumerate(sentences)}

    def ask_one(number):
        magics.run(cell.shell, "ask", f"r{number} --with v{number}", f"q{number}?")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask_one, range(4)))
    assert len({len(call.messages) for call in cell.backend.calls}) < 4  # some at the same time
    turns = ask.get_conversation().turns
    assert sorted((one.question, one.answer) for one in turns) == [
        (f"q{number}?", f"a{number}") for number in range(4)
    ]
    cell.ask("All?")
    whole = "".join(text for _, text in cell.sent)
    ids = [re.search(rf"\[(S\d+)\] {re.escape(text)}", whole)[1] for text in sentences]
    assert len(set(ids)) == 4


def test_an_error_leaves_the_conversation_as_it_was(open_notebook):
    """The next question goes on with what was answered."""
    cell = open_notebook(
        Rule(contains="bad", status=500, error="boom"), Rule(answer="Yes."), version="0.33.0"
    )
    cell.ask("One?")
    with pytest.raises(ServerInternalError):
        cell.ask("bad?")
    cell.ask("Two?")
    assert [text for _, text in cell.sent[1:]] == ["One?", "Yes.", "Two?"]


def test_a_stopped_answer_is_kept_and_marked(open_notebook, monkeypatch):
    """The model sees that it was stopped; without any text it is no turn."""
    cell = open_notebook(
        Rule(contains="One", answer=["Half an ", "answer ", *"never"], token_ms=100)
    )
    whole = AnswerStream.iterate

    def stop_after_two(self, tick=None):
        for number, piece in enumerate(whole(self, tick)):
            if number == 2:
                raise KeyboardInterrupt
            yield piece

    with monkeypatch.context() as patch:
        patch.setattr(AnswerStream, "iterate", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            cell.ask("One?", "a")
    assert cell.shell.user_ns["a"].done_reason == "interrupted"
    cell.ask("Two?")
    assert cell.sent[2][1].startswith("Half an answer")
    assert cell.sent[2][1].endswith("\n[The user stopped this answer here.]")
    assert "(stopped)" in cell.chat()


@pytest.mark.parametrize("line", ["", "--max-tokens 300"])
def test_ten_turns_never_exceed_a_small_window(open_notebook, line):
    """
    Prompt and answer together keep the window in each turn, and nothing is refused. Turns are left
    out visibly, several at once, so that the server finds most of its prompt in its cache.
    """
    cell = open_notebook(Rule(answer="An answer that is of some length. " * 12), num_ctx=2048)
    left = []
    for number in range(10):
        shown = cell.ask(f"{number}: {LONG}", line)
        found = re.search(r"(\d+) oldest turns? left out", shown)
        left.append(int(found[1]) if found else 0)
        call = cell.backend.calls[-1]
        assert cell.backend.count(call) + call.options["num_predict"] <= 2048
    assert cell.backend.refused == []
    assert left[-1] > 0
    drops = sum(later > earlier for earlier, later in itertools.pairwise(left))
    assert drops <= 4
    if line:  # most turns add to a prompt that is known
        known = sum(cached for cached, _ in cell.backend.cached[1:])
        read = sum(new for _, new in cell.backend.cached[1:])
        assert known > read
    assert f"turn {10}" in shown


def test_what_the_server_finds_too_long_is_asked_again_with_less(open_notebook):
    """A tokenizer that knows no words: fewer turns and less of the values, visibly."""
    cell = open_notebook(Rule(answer="word " * 30), num_ctx=2048, density=4)
    cell.shell.user_ns["note"] = "word " * 10_000
    shown = cell.ask("One?", "--with note --max-tokens 64")
    assert 1 <= len(cell.backend.refused) <= 3
    assert "the server found it too long: asked again with less" in shown
    refused = len(cell.backend.refused)
    cell.ask("Two?", "--with note --max-tokens 64")
    assert len(cell.backend.refused) == refused  # it has learned


def test_less_is_sent_for_data_too(open_notebook):
    """`--json` asks again with less as an answer in words does, and learns from it."""
    cell = open_notebook(Rule(answer='{"risk": 1}'), num_ctx=2048, density=6)
    cell.shell.user_ns["note"] = "word " * 10_000
    shown = cell.ask("One?", "found --with note --json risk:float --max-tokens 64")
    assert 1 <= len(cell.backend.refused) <= 3
    assert "the server found it too long: asked again with less" in shown
    assert cell.shell.user_ns["found"] == {"risk": 1}
    refused = len(cell.backend.refused)
    cell.ask("Two?", "found --with note --json risk:float --max-tokens 64")
    assert len(cell.backend.refused) == refused


@pytest.mark.parametrize("line", ["", "--json risk:float"])
def test_an_answer_that_the_window_cuts_is_not_told_to_ask_for_more(open_notebook, line):
    """A larger `--max-tokens` would not help: the window has no room for it."""
    cell = open_notebook(Rule(answer='{"risk":', ends="length"), num_ctx=512)
    shown = ""
    try:
        shown = cell.ask("One?", line)
    except AnswerInvalid as exc:
        shown = exc.fix
    assert "larger: URISK_NUM_CTX" in shown
    assert "--max-tokens" not in shown


def test_a_question_that_is_too_long_by_itself_is_the_servers_error(open_notebook):
    """Nothing can be left out; the conversation is as it was."""
    cell = open_notebook(num_ctx=512)
    cell.ask("One?", "--max-tokens 20")
    with pytest.raises(ContextExceeded):
        cell.ask("word " * 3000)
    assert "One?" in cell.chat()
    assert "word" not in cell.chat()
