"""The bodies that the service takes: what a request cannot leave out."""

import pytest
from pydantic import ValidationError

from urisk_nb.llm.answers import Answer
from urisk_nb.llm.calls import timing_of
from urisk_nb.llm.messages import Final
from urisk_nb.service.schemas import AnswerBody, RiskBody, encode_answer


@pytest.mark.parametrize("row", [{"text": "Rates rose."}, {"text": "Rates rose.", "ticker": None}])
def test_evidence_without_a_ticker_is_refused(row):
    """It would count against every company."""
    with pytest.raises(ValidationError, match=r"evidence\.0\.ticker"):
        RiskBody.model_validate({"tickers": ["AAA"], "evidence": [row]})


def test_evidence_for_all_companies_says_so():
    """The ticker `*` is a text like any other, and the schema explains it."""
    body = RiskBody.model_validate(
        {"tickers": ["AAA"], "evidence": [{"text": "Rates rose.", "ticker": "*"}]}
    )
    assert body.evidence[0].ticker == "*"
    assert "`*`" in RiskBody.model_json_schema()["$defs"]["EvidenceBody"]["description"]


def test_an_answer_says_what_is_wrong_with_it():
    """As in Python: a sentence for each code, and none where all is well."""
    timing = timing_of(Final(done_reason="stop"), first_token_s=0.1, total_s=0.2)
    given = {"model": "m", "engine": "ollama", "done_reason": "stop", "timing": timing}
    faults = {"no_text": "The model gave no text."}
    for answer, expected in (
        (Answer("", faults=faults, **given), faults),
        (Answer("x", **given), {}),
    ):
        body = encode_answer(answer)
        assert body["faults"] == expected
        assert AnswerBody.model_validate(body).faults == expected
