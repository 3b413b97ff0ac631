"""The bodies that the service takes: what a request cannot leave out."""

import pytest
from pydantic import ValidationError

from urisk_nb.service.schemas import RiskBody


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
