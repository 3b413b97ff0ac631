"""
A manager whose judge answers by a function, with a digest: runs that are recorded and answered
from the journal, without a server. Its answers are SCRIPTED.
"""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import pandas as pd

from urisk_nb.llm.labels import Judge, LabelMethod
from urisk_nb.llm.written_labels import SchemaSetting
from urisk_nb.risk.calibration import Token
from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES


class Text(str):
    """An answer as the manager gives it."""

    done_reason = "stop"
    logprobs = ()
    timing = SimpleNamespace(tokens=11, prompt_tokens=900, total_s=0.0123, attempts=1)


def label(risk, severity):
    return json.dumps({"risk": risk, "severity": severity})


def by_word(text):
    """Fines are severe, so asked twice; a shop is nothing; the rest is mild."""
    if "fined" in text:
        return label("legal", 4)
    return label("none", 0) if "shop" in text else label("business", 2)


class ScriptedJudge:
    """What a run needs of a manager; `asked` has the text of each question that reached it."""

    model = judge = "judge:7b"
    engine, version, url = "ollama", "0.12.3", "http://127.0.0.1:1"
    settings = SimpleNamespace(num_ctx=4096, outage_wait_s=0.0)
    is_managed, slots = False, 1
    num_ctx = 4096

    def __init__(
        self,
        answer=by_word,
        *,
        digest="d1",
        session="",
        method=LabelMethod.SCHEMA,
        parallel=1,
        service_s=0.0,
        choices=(),
    ):
        self.answer, self.digest, self.session, self.method = answer, digest, session, method
        self.parallel, self.service_s, self.choices = parallel, service_s, choices
        self.asked, self.payloads = [], []

    async def find_judges(self, *models):
        return tuple(
            Judge(
                model=one,
                method=self.method,
                digest=self.digest and f"{self.digest}-{one}",
                session=self.session,
                setting=SchemaSetting(self.choices) if self.choices else None,
            )
            for one in models
        )

    async def ensure_model(self, *models):
        pass

    async def is_up(self, model=None):
        return True

    @contextlib.contextmanager
    def allow_parallel(self, least):
        yield

    async def ask(self, question, model=None):
        if self.service_s:
            await asyncio.sleep(self.service_s)
        payload = json.loads(question.payload)
        text = payload["messages"][-1]["content"]
        self.asked.append(text)
        self.payloads.append(payload)
        answer = Text(self.answer(text))
        if self.method.is_decision:
            answer.logprobs = decide(json.loads(answer))
        elif payload.get("logprobs"):  # a token for each character, and nothing said of others
            answer.logprobs = tuple(Token(text=one, logprob=-0.01) for one in answer)
        return answer


def decide(answer):
    """A decision's tokens: three quarters for the answer, the rest for all others together."""

    def token(chosen, names, end):
        rivals = tuple((f"{name}{end}", -3.5) for name in names if name != chosen)
        return Token(text=f"{chosen}{end}", logprob=-0.29, top_logprobs=rivals)

    return (
        Token(text='{"risk":"', logprob=0.0),
        token(answer["risk"], (*DEFAULT.ids, NONE), '",'),
        Token(text='"severity":', logprob=0.0),
        token(str(answer["severity"]), map(str, SEVERITIES), "}"),
    )


def news(*rows):
    return pd.DataFrame(rows, columns=["ticker", "text"])


NEWS = news(
    ("A", "It was fined by the court."),
    ("A", "It opened a shop."),
    ("B", "It was fined by the court."),
    ("B", "Demand fell in spring."),
)
