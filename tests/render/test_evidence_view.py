"""What a table shows of evidence: what was read, and where each sentence stands."""

from dataclasses import replace

from table_maker import document, table_of
from urisk_nb.risk.inputs import Section


def test_without_a_model_the_table_says_what_was_read():
    """Evidence without labels: how many sentences there are is all that can be shown."""
    documents = [document("Acme was fined. Acme was sued."), document("Acme fell.", "D2")]
    text = repr(table_of(documents, llm=False, with_prices=False))
    assert "sentences" in text.splitlines()[0]
    assert text.splitlines()[2].split() == ["AAA", "3"]


def test_a_sentence_is_cited_with_its_section():
    one = replace(
        document("Acme was fined."), sections=(Section(name="Item 3", title="Legal", start=0),)
    )
    table = table_of([one, document("Acme fell.", "D2")])
    assert "[wire, Item 3, 2018-03-01]" in repr(table)
    assert "[wire, 2018-03-01]" in repr(table)
    assert "Item 3" in table._repr_html_()
