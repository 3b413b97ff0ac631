"""
Managers whose judges answer by a function, without a server. With a digest, so that runs are
recorded and answered from the journal; without one; and several judges. Their answers are SCRIPTED.
"""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import pandas as pd

from urisk_nb.llm.labels import Judge, LabelMethod
from urisk_nb.llm.messages import is_judge
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
        await asyncio.sleep(self.service_s)
        payload = json.loads(question.payload)
        text = payload["messages"][-1]["content"]
        self.asked.append(text)
        self.payloads.append(payload)
        answer = Text(self.answer(text))
        answer.logprobs = self.list_logprobs(answer, payload)
        return answer

    def list_logprobs(self, answer, payload):
        if self.method.is_decision:
            return decide(json.loads(answer))
        return spell(answer) if payload.get("logprobs") else ()


class Listed(ScriptedJudge):
    """
    A manager without a journal, since it has no digest; it keeps how many were asked at once, and
    says probabilities or not, whatever was asked for.
    """

    def __init__(self, answer, *, logprobs=False, **rest):
        super().__init__(answer, digest=None, **rest)
        self.logprobs, self.now, self.peak = logprobs, 0, 0

    async def find_judges(self, *models):
        decides = {True: LabelMethod.DECISION, False: LabelMethod.SCHEMA}
        return tuple(Judge(model=one, method=decides[is_judge(one)]) for one in models)

    async def ask(self, question, model=None):
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            return await super().ask(question, model)
        finally:
            self.now -= 1

    def list_logprobs(self, answer, payload):
        return spell(answer) if self.logprobs else ()


class Panel(Listed):
    """A manager of several models, each of which answers by its own function."""

    def __init__(self, answers, **rest):
        super().__init__(None, **rest)
        self.answers, self.steps = answers, []
        self.model = self.judge = next(iter(answers))

    async def ensure_model(self, *models):
        self.steps.append(("ready", *models))

    async def find_judges(self, *models):
        ways = {True: LabelMethod.DECISION, False: LabelMethod.SCHEMA}
        return tuple(Judge(model=one, method=ways["decides" in one], digest="d1") for one in models)

    async def ask(self, question, model=None):
        self.steps.append((model, question.sentence.text))
        self.answer = self.answers[model]
        return await super().ask(question, model)


def always(risk, severity=2):
    return lambda text: label(risk, severity)


def spell(answer):
    """A token for each character, and nothing said of others."""
    return tuple(Token(text=one, logprob=-0.01) for one in answer)


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
