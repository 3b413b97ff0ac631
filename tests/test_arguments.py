"""
What the public functions take: every parameter by name, and what they do not take is refused with
the likely one.
"""

import asyncio
import dataclasses
import inspect

import pytest

from urisk_nb import LLMManager, RiskParams, assess, assess_async
from urisk_nb.arguments import name_flag
from urisk_nb.errors import InputError, UriskError
from urisk_nb.notebook import magics
from urisk_nb.risk.params import read_parallel
from urisk_nb.run_options import PARAMS
from urisk_nb.settings import Settings, load

pytest.importorskip("fastapi", reason="the extra `service` is not installed")
pytest.importorskip("uvicorn", reason="the extra `service` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `service` is not installed")

from urisk_nb.service import create_app, serve

OF_A_SESSION = {
    "initialize": (LLMManager.initialize, {"progress", "reload"}),
    "initialize_sync": (LLMManager.initialize_sync, {"progress", "reload"}),
    "create_app": (create_app, {"token", "max_body_bytes", "max_calls"}),
    "serve": (serve, {"host", "port", "token"}),
}
OF_A_RUN = {"assess": assess, "assess_async": assess_async}


@pytest.mark.parametrize("name", OF_A_SESSION)
def test_each_setting_is_a_parameter(name):
    """
    Shift-Tab shows every setting by its name, with a default, and nothing that takes whatever
    comes.
    """
    function, own = OF_A_SESSION[name]
    parameters = inspect.signature(function).parameters
    assert set(parameters) == set(Settings.model_fields) | own
    assert {one.kind for one in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert all(
        one.default is None
        for setting, one in parameters.items()
        if setting in Settings.model_fields
    )


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_run_names_what_it_takes(name):
    """
    The tickers by position, everything else by name.
    """
    parameters = list(inspect.signature(OF_A_RUN[name]).parameters.values())
    assert (parameters[0].name, parameters[0].kind) == (
        "tickers",
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    wanted = {
        "prices",
        "evidence",
        "previous",
        "query",
        "benchmark",
        "stress",
        "factors",
        "params",
        "taxonomy",
        "families",
        "manager",
        "client",
        "parallel",
        "refresh",
        "on_progress",
    }
    assert {one.name for one in parameters[1:]} == wanted
    assert {one.kind for one in parameters[1:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert "prices" in (OF_A_RUN[name].__doc__ or "") or name == "assess_async"


def call(function, *args, **kwargs):
    """The function's result, awaited where it is a coroutine."""
    given = function(*args, **kwargs)
    return asyncio.run(given) if inspect.iscoroutine(given) else given


ALL = {**OF_A_RUN, **{name: function for name, (function, _) in OF_A_SESSION.items()}}
UNKNOWN = [
    ("assess", {"evidense": []}, "evidence=..."),
    ("assess_async", {"evidense": []}, "evidence=..."),
    ("assess", {"window": "2y"}, "params=RiskParams(window=...)"),
    ("assess", {"alfa": 0.05}, "params=RiskParams(alpha=...)"),
    ("assess", {"qerry": "x"}, "query=..."),
    ("assess", {"zzzzzzzz": 1}, "use one of tickers, prices"),
    ("initialize", {"modle": "x"}, "model=..."),
    ("initialize_sync", {"paralel": 2}, "parallel=..."),
    ("create_app", {"max_body_byte": 2}, "max_body_bytes=..."),
    ("create_app", {"modle": "x"}, "model=..."),
    ("serve", {"prot": 2}, "port=..."),
]


@pytest.mark.parametrize(
    ("name", "given", "fix"),
    UNKNOWN,
    ids=[f"{name} {next(iter(given))}" for name, given, _ in UNKNOWN],
)
def test_an_unknown_argument_is_refused_with_the_likely_one(name, given, fix):
    """
    InputError, before anything is begun: what was given, and what was meant.
    """
    args = ("AAA",) if name in OF_A_RUN else ()
    with pytest.raises(InputError) as caught:
        call(ALL[name], *args, **given)
    assert caught.value.message == f"{name}() has no argument {next(iter(given))!r}."
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("name", "args"),
    [("assess", ("AAA", {})), ("assess", ()), ("assess_async", ()), ("initialize", ("llama3.1",))],
)
def test_too_many_and_too_few_are_refused(name, args):
    """
    A second thing by position, or no tickers: InputError that lists the names.
    """
    with pytest.raises(InputError, match=r"positional|missing") as caught:
        call(ALL[name], *args)
    assert "by its name" in caught.value.fix


def test_an_error_inside_is_left_alone():
    """
    A TypeError of the function's own body is no matter of its arguments.
    """
    with pytest.raises(TypeError, match="of the loader"):
        assess("AAA", prices=lambda tickers: (_ for _ in ()).throw(TypeError("of the loader")))


def test_parameters_may_be_a_mapping():
    """
    Params as a mapping are those of RiskParams, checked alike; what is given beside them wins.
    """
    news = [{"ticker": "AAA", "text": "It was fined."}]
    meta = assess(
        "AAA", evidence=news, params={"llm": False, "alpha": "0.05,0.01"}, query="fines"
    ).report.meta["params"]
    assert (meta["alpha"], meta["query"]) == ([0.05, 0.01], "fines")
    assert meta == RiskParams.of(llm=False, alpha=(0.05, 0.01), query="fines").as_dict()
    with pytest.raises(InputError, match="no parameter 'windw'"):
        assess("AAA", evidence=news, params={"windw": "2y"})
    with pytest.raises(InputError, match="params is a list"):
        assess("AAA", evidence=news, params=[1])


def test_the_magics_parse_nothing():
    """
    What is typed after a flag is handed over as text: it is read where `assess` and `initialize`
    read theirs, and nowhere else.
    """
    lines = {
        "risk": "--alpha 0.05,0.01 --start 2024-01-31 --as-of 2024-06-30 --window 2y --labels "
        "calibrated --parallel 4 --model m --query q",
        "urisk_start": "--num-ctx 2048 --parallel 4 --engine ollama --gguf x.gguf --keep-alive 2h "
        "--url http://h --model m",
    }
    for name, line in lines.items():
        given = vars(magics.build_parser(name).parse_line(line))
        words = line.split()[1::2]
        assert sorted(value for value in given.values() if isinstance(value, str)) == sorted(words)
        assert {type(value) for value in given.values()} <= {str, bool, type(None)}
    assert set(PARAMS) <= {one.name for one in dataclasses.fields(RiskParams)}


@pytest.mark.parametrize(
    ("read", "message", "fix"),
    [
        (
            lambda: load(num_ctx="x"),
            "--num-ctx is 'x'; ",
            "give --num-ctx as 4096, or leave it out",
        ),
        (lambda: load(parallel="x"), "--parallel is 'x'; ", "give --parallel as 1"),
        (lambda: RiskParams.of(as_of="x"), "--as-of 'x' is not a date", "--as-of 2019-12-30"),
        (lambda: RiskParams.of(window="3x"), "--window '3x' is not", '--window 2y ("2y", "6m",'),
        (lambda: RiskParams.of(labels="x"), "--labels 'x' is not one of", "--labels greedy"),
        (lambda: read_parallel("x"), "--parallel 'x' is not a whole", "--parallel 1"),
        (lambda: load(url="ftp://x"), "url is 'ftp://x'", "give url as http"),
    ],
)
def test_an_error_names_the_flag_that_was_typed(read, message, fix):
    """
    The flag in message and fix where the command has one for the argument; else the argument.
    """
    flags = ("name", "--as-of", "--labels", "--num-ctx", "--parallel", "--window")
    with pytest.raises(UriskError) as caught:
        read()
    name_flag(caught.value, flags)
    assert caught.value.message.startswith(message)
    assert caught.value.fix.startswith(fix)


UNFIT = [
    ("assess", {"manager": "x"}, "manager is 'x'"),
    ("assess_async", {"manager": "x"}, "manager is 'x'"),
    ("assess", {"manager": LLMManager}, "manager is <class"),
    ("assess", {"taxonomy": 3}, "taxonomy is 3"),
    ("assess", {"taxonomy": {}}, "taxonomy is {}"),
    ("assess_async", {"taxonomy": None}, "taxonomy is None"),
    ("initialize", {"progress": 5}, "progress is 5"),
    ("initialize_sync", {"progress": 5}, "progress is 5"),
    ("serve", {"port": "x"}, "port is 'x'"),
    ("serve", {"port": True}, "port is True"),
    ("serve", {"port": 65_536}, "port is 65536"),
    ("serve", {"host": ""}, "host is ''"),
    ("serve", {"token": ""}, "the token is empty"),
    ("create_app", {"max_body_bytes": "x"}, "max_body_bytes is 'x'"),
    ("create_app", {"max_calls": -1}, "max_calls is -1"),
    ("create_app", {"max_calls": 0}, "max_calls is 0"),
    ("create_app", {"token": 5}, "the token is no text"),
    ("create_app", {"token": " "}, "the token is empty"),
]


@pytest.mark.parametrize(
    ("name", "given", "seen"), UNFIT, ids=[f"{name} {given}" for name, given, _ in UNFIT]
)
def test_a_value_that_cannot_be_used_is_refused(name, given, seen):
    """InputError, before anything is begun: what was seen, and what to give."""
    args = ("AAA",) if name in OF_A_RUN else ()
    beside = {"evidence": {"AAA": ["It was fined."]}} if name in OF_A_RUN else {}
    with pytest.raises(InputError) as caught:
        call(ALL[name], *args, **beside, **given)
    assert caught.value.message.startswith(seen)
    assert caught.value.fix.startswith(("give ", "leave "))


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"format": "xml"}, "format is 'xml'"),
        ({"format": ""}, "format is ''"),
        ({"format": 5}, "format is 5"),
        ({"format": "x" * 500}, f"format is '{'x' * 76}..."),
        ({"options": 5}, "options is 5"),
        ({"options": {1: 2}}, "an option's name is 1"),
        ({"options": {"num_ctx": 100}}, "options['num_ctx'] is 100"),
    ],
)
def test_what_a_call_cannot_use_is_refused(fake_ollama, given, seen):
    """It is said before anything is sent, by each way to ask."""
    manager = LLMManager.initialize_sync(url=fake_ollama.url)
    try:
        before = fake_ollama.counters()["paths"].get("/api/chat", 0)
        with pytest.raises(InputError) as caught:
            manager.generate_sync("hi", **given)
        assert caught.value.message.startswith(seen)
        with pytest.raises(InputError):
            asyncio.run(manager.chat([{"role": "user", "content": "hi"}], **given))
        assert fake_ollama.counters()["paths"].get("/api/chat", 0) == before
        assert manager.generate_sync("hi", format="json", options={"seed": 1})
    finally:
        manager.shutdown_sync()
