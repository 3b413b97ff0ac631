"""What a request is known by: a hash of all that is asked, whichever way it is put.

The same hash to the same model gets the same answer, so the journal may give it again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import TYPE_CHECKING

from urisk_nb.risk.taxonomy import SEVERITIES, Taxonomy

if TYPE_CHECKING:
    from urisk_nb.llm.labels import LabelMethod
    from urisk_nb.risk.questions import Question

__all__ = ["hash_request"]


def hash_request(question: Question, method: LabelMethod) -> bytes:
    """
    Return the sha256 of what a model is asked in this way.

    It covers every byte that bears on the answer. The model, its context window and how long it
    stays loaded are no part of it.

    Parameters
    ----------
    question
        Its payload is what a chat model is asked. A decision model is asked other bytes: the
        sentence, the categories and the query.
    method
        How it is asked.
    """
    if not method.is_decision:
        return bytes.fromhex(question.key)
    from urisk_nb.llm import letters  # here: a run without evidence needs none of it
    from urisk_nb.llm.labels import LabelMethod

    text = question.sentence.text
    asked = [_describe_questions(question.taxonomy, question.query, method)]
    if method is LabelMethod.LETTERS:
        asked += [letters.build_prompt(text, word) for word in letters.WORDS]
    else:
        asked.append(text)
    return hashlib.sha256(json.dumps(asked).encode()).digest()


@functools.lru_cache(maxsize=64)
def _describe_questions(taxonomy: Taxonomy, query: str | None, method: LabelMethod) -> str:
    """Return what is asked beside the sentence: the same for all of a run."""
    from urisk_nb.llm.dialects import systemone
    from urisk_nb.llm.labels import LabelMethod, build_questions

    if method is LabelMethod.LETTERS:
        return json.dumps([method, taxonomy.labels, list(SEVERITIES)])
    questions = build_questions(taxonomy, query)
    return systemone.encode_decision(model="", state="", questions=questions).decode()
