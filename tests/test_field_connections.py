"""
How real users reach their servers, by the numbers of the reports: table C, rows C4, C5, C14.

Each case has a small server of its own. Certificates and proxies: test_field_proxies.py; compressed
replies: test_field_compression.py.
"""

import base64
import contextlib
import json
import logging
import re
import socket

import pytest

from small_server import Handler, chat, chat_only, page, probe, says, serve, show
from urisk_nb import errors
from urisk_nb.settings import load

SECRET = "s3cret-Value"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, run_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_folder))
    return tmp_path


# C4: keys and headers -----------------------------------------------------------------------------

LOGINS = {
    "key": ({"OLLAMA_API_KEY": SECRET}, "Authorization", f"Bearer {SECRET}"),
    "key with its word": ({"OLLAMA_API_KEY": f"Bearer {SECRET}\n"[:-1]}, "Authorization", None),
    "header": ({"OLLAMA_HEADERS": f"X-Key: {SECRET}"}, "X-Key", SECRET),
    "headers": (
        {"OLLAMA_HEADERS": f"X-Team: risk; Cookie: a=1; b={SECRET}; X-At: 10:30"},
        "Cookie",
        f"a=1; b={SECRET}",
    ),
    "JSON": ({"OLLAMA_HEADERS": json.dumps({"X-Key": f"a; b: {SECRET}"})}, "X-Key", None),
    "one before the other": (
        {"OLLAMA_API_KEY": "another", "OLLAMA_HEADERS": f"authorization: Token {SECRET}"},
        "Authorization",
        f"Token {SECRET}",
    ),
}


@pytest.mark.parametrize("case", LOGINS)
def test_c4_a_key_is_sent_with_every_request(case, monkeypatch):
    """ollama#11587: gateways want a key in a header."""
    variables, name, value = LOGINS[case]
    for variable, content in variables.items():
        monkeypatch.setenv(variable, content)
    expected = value or (f"Bearer {SECRET}" if name == "Authorization" else f"a; b: {SECRET}")
    with serve(wanted=(name, expected)) as server:
        assert chat(server.url) == "Ask why."
        assert {headers.get(name) for _, headers in server.seen} == {expected}


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        (f"me:{SECRET}", f"me:{SECRET}"),
        ("me:p%40s%2Fs%3A", "me:p@s/s:"),
        ("me:a@b", "me:a@b"),
        ("t%C3%B6m:x%20y", "töm:x y"),
        (SECRET, f"{SECRET}:"),
    ],
)
def test_c4_user_and_password_of_the_address_are_sent(login, sent):
    """litellm#3794: as Basic, decoded; the address that is shown is without them."""
    wanted = f"Basic {base64.b64encode(sent.encode()).decode()}"
    with serve(wanted=("Authorization", wanted), prefix="/team") as server:
        url = server.url.replace("://", f"://{login}@") + "/team"
        assert chat(url) == "Ask why."
        assert load(url=url).url == f"{server.url}/team"


@pytest.mark.parametrize("login", [f"me:p@{SECRET}/w", f"me:{SECRET}/w@x", f"me@{SECRET}/x:y"])
def test_c4_a_password_that_is_not_written_out_never_becomes_a_host(login):
    """A slash in it ends the host: what stands before it would be looked up by name."""
    with pytest.raises(errors.SettingsError, match=r"\*\*\*@gw\.example") as caught:
        load(url=f"https://{login}@gw.example")
    assert SECRET not in show(caught.value)


@pytest.mark.parametrize("url", ["/tmp/ollama.sock", "/", "/ollama"])
def test_c14_a_path_is_no_address(url):
    """It would be this machine, with a path."""
    with pytest.raises(errors.SettingsError, match=r"OLLAMA_URL|url is"):
        load(url=url)


def test_c4_a_change_of_the_login_alone_is_a_change():
    """The address is the same text, and the session has to begin anew."""
    from urisk_nb.llm.manager import _diff_settings

    one, two = (load(url=f"http://me:{word}@gw.example") for word in ("first", "second"))
    assert _diff_settings(one, two) == {"url"}
    assert not _diff_settings(one, load(url="http://me:first@gw.example"))


def test_c4_no_secret_is_shown_or_recorded(monkeypatch, caplog, capfd, tmp_path):
    """
    Not in the record of a run, the status, the calls, the logs, or an error whose server echoes it;
    nor in what `urisk doctor` and a Python traceback print.
    """
    import pickle
    import traceback

    from urisk_nb import LLMManager, cli

    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OLLAMA_API_KEY", f"key-{SECRET}")
    monkeypatch.setenv("OLLAMA_HEADERS", f"X-Key: header-{SECRET}")
    with serve() as server:
        url = server.url.replace("://", f"://me:password-{SECRET}@")
        monkeypatch.setenv("OLLAMA_URL", url)
        manager = LLMManager.initialize_sync()
        try:
            manager.generate_sync("why?")
            seen = [repr(manager), repr(manager.settings), str(manager.settings), manager.url]
            seen += [repr(manager.snapshot()), repr(list(manager.calls.records))]
        finally:
            manager.shutdown_sync()
        cli.main(["doctor"])
        seen.append(capfd.readouterr().out)
        assert "answers at" in seen[-1]
    echo = says(
        401, json.dumps({"error": f"key-{SECRET} header-{SECRET} me:password-{SECRET}"}).encode()
    )
    with serve(handler=echo) as server:
        for run in (probe, chat_only):
            with pytest.raises(errors.AccessDenied) as caught:
                run(server.url.replace("://", f"://me:password-{SECRET}@"))
            seen += [show(caught.value), repr(caught.value.facts), str(pickle.dumps(caught.value))]
            seen += traceback.format_exception(caught.value)
    for url in (f"http://me:{SECRET}@gw.example:0", f"http://me:/{SECRET}@gw", f"ftp://{SECRET}@x"):
        with pytest.raises(errors.SettingsError) as caught:
            load(url=url)
        seen += [show(caught.value), *traceback.format_exception(caught.value)]
    seen += [record.getMessage() for record in caplog.records]
    seen += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(seen) > 20
    assert not [text for text in seen if SECRET in text]


@pytest.mark.parametrize("where", ["refusal", "stream", "page in a stream"])
def test_c4_what_a_server_repeats_is_masked_in_the_record_too(where):
    """Its words stand in the message and, for the record, in the facts."""
    body = {
        "refusal": json.dumps({"error": f"no model for {SECRET}"}),
        "stream": json.dumps({"error": f"no model for {SECRET}"}),
        "page in a stream": f" \n not JSON {SECRET}",
    }[where].encode()
    with (
        serve(handler=says(500 if where == "refusal" else 200, body + b"\n")) as server,
        pytest.raises(errors.UriskError, match=r"\*\*\*") as caught,
    ):
        chat_only(server.url, api_key=SECRET)
    assert SECRET not in f"{show(caught.value)} {caught.value.facts} {caught.value.args}"


def test_c4_a_header_that_is_a_word_of_ours_masks_no_fix():
    """`X-Team: risk`: `%urisk_start` is still that, and so is `ollama serve`."""
    with serve(handler=says(401, b"no")) as server, pytest.raises(errors.AccessDenied) as caught:
        chat_only(server.url, headers="X-Team: risk")
    assert "%urisk_start" in caught.value.fix
    with pytest.raises(errors.ServerNotRunning) as caught:
        probe("http://127.0.0.1:9", api_key="ollama")
    assert "`ollama serve`" in caught.value.fix


def test_c4_a_key_that_is_a_word_of_ollama_does_not_hide_what_is_meant():
    """Errors are told apart by the server's words as they came."""
    old = says(500, b'{"error":"this model needs a newer version of ollama"}')
    with serve(handler=old) as server, pytest.raises(errors.ServerTooOld, match=r"of \*\*\*"):
        chat_only(server.url, api_key="ollama")


def test_c4_a_server_that_we_start_gets_no_key():
    """It has no use for it, and its environment can be read."""
    from urisk_nb.server.engines import build_environment
    from urisk_nb.settings import Engine

    base = {"OLLAMA_API_KEY": SECRET, "OLLAMA_HEADERS": f"X: {SECRET}", "PATH": "/bin"}
    base["OLLAMA_URL"] = f"http://me:{SECRET}@localhost"
    base["ollama_api_key"] = SECRET  # which is read, too
    for engine in (Engine.OLLAMA, Engine.EMBEDDED):
        assert SECRET not in str(build_environment(engine, load(), base))


@pytest.mark.parametrize("path", ["", "/ollama", "/a/b"])
def test_c4_a_path_prefix_is_kept(path):
    """With and without `/v1` and a slash at the end."""
    with serve(prefix=path) as server:
        for end in ("", "/", "/v1", "/v1/"):
            assert chat(server.url + path + end) == "Ask why."


# C5: statuses -------------------------------------------------------------------------------------


STATUSES = {
    400: (errors.BadRequest, "refused the request", "proxy"),
    401: (errors.AccessDenied, "wants a login", "OLLAMA_API_KEY"),
    403: (errors.AccessDenied, "does not let you in", "OLLAMA_API_KEY"),
    404: (errors.ServerError, "/api/(chat|version)", "OLLAMA_URL|address"),
    405: (errors.ServerError, "/api/(chat|version)", "OLLAMA_URL|address"),
    407: (errors.AccessDenied, "proxy", "Proxy-Authorization"),
    408: (errors.ServerConnectionLost, "waited too long", "ask again"),
    413: (errors.BadRequest, "size", "client_max_body_size"),
    429: (errors.ServerBusy, "no more requests", "wait"),
    500: (errors.ServerInternalError, "failed", "log"),
    502: (errors.ServerConnectionLost, "cannot reach the model server", "start the model server"),
    503: (errors.ServerBusy, "busy", "wait"),
    504: (errors.ServerTimeout, "waited too long for the model server", "proxy_read_timeout"),
    511: (errors.AccessDenied, "login of the network", "browser"),
    529: (errors.ServerBusy, "no more requests", "wait"),
    521: (errors.ServerConnectionLost, "cannot reach the model server", "start the model server"),
}


@pytest.mark.parametrize("run", [probe, chat_only])
@pytest.mark.parametrize("status", STATUSES)
def test_c5_each_status_of_a_gateway_has_its_sentence(status, run):
    """ollama-python PR#61: at the start and in the middle of a run; of a page only its title."""
    kind, said, fix = STATUSES[status]
    title = f"{status} Gateway's own title"
    with (
        serve(handler=says(status, page(title), "text/html; charset=utf-8")) as server,
        pytest.raises(kind, match=said) as caught,
    ):
        run(server.url)
    assert re.search(fix, caught.value.fix)
    assert f"{status}" in caught.value.message
    assert "<" not in show(caught.value)
    assert "not Ollama" not in show(caught.value)
    assert not isinstance(caught.value, errors.CloudModelBlocked)


@pytest.mark.parametrize("status", [402, 418, 425])
def test_c5_a_refusal_that_nobody_knows_is_no_fault_of_the_server(status):
    """The same request would be refused again."""
    with (
        serve(handler=says(status, b"no", "text/plain")) as server,
        pytest.raises(errors.BadRequest, match=f"HTTP {status}: no"),
    ):
        chat_only(server.url)


def test_c5_a_page_is_a_page_with_any_good_status():
    with (
        serve(handler=says(203, page("Sign in"), "text/html")) as server,
        pytest.raises(errors.PortTaken, match=r"web page .*Sign in"),
    ):
        probe(server.url)


def test_c5_a_key_that_is_not_accepted_is_named(monkeypatch):
    """Which of the logins it was; and a wrong key is no cloud model."""
    with serve(wanted=("Authorization", "Bearer right")) as server:
        monkeypatch.setenv("OLLAMA_API_KEY", "wrong-key")
        for run in (probe, chat_only):
            with pytest.raises(errors.AccessDenied, match="not accept the key OLLAMA_API_KEY"):
                run(server.url)
        with pytest.raises(errors.AccessDenied, match="user and password of OLLAMA_URL"):
            probe(server.url.replace("://", "://me:other@"))


def test_c5_headers_without_a_login_are_not_blamed_for_it(monkeypatch):
    """They may say only who asks; the fix adds the login beside them, and that works."""
    with serve(wanted=("Authorization", "Bearer right")) as server:
        monkeypatch.setenv("OLLAMA_HEADERS", "X-Team: blue")
        with pytest.raises(errors.AccessDenied, match="with the headers of OLLAMA_HEAD") as caught:
            probe(server.url)
        assert "OLLAMA_API_KEY=..." in caught.value.fix
        with open(".env", "w") as file:
            file.write("OLLAMA_API_KEY=right\n")
        assert chat(server.url) == "Ask why."


def test_c5_the_fix_for_basic_auth_works_where_the_address_is_a_variable(monkeypatch):
    """The variable goes before `.env`, so the fix empties it."""
    wanted = f"Basic {base64.b64encode(b'me:word').decode()}"

    class Guarded(Handler):
        def answer(self):
            if self.headers.get("Authorization") == wanted:
                super().answer()
            else:
                self.reply(401, b"", WWW_Authenticate='Basic realm="gw"')

    with serve(handler=Guarded) as server:
        monkeypatch.setenv("OLLAMA_URL", server.url)
        with pytest.raises(errors.AccessDenied) as caught:
            probe()
        line, _, rest = caught.value.fix.removeprefix("put ").partition(" into .env, then ")
        with open(".env", "w") as file:
            file.write(line.replace("USER", "me").replace("PASSWORD", "word"))
        name, _, value = rest.removeprefix("%env ").removesuffix(" and %urisk_start").partition("=")
        monkeypatch.setenv(name, value)
        assert chat() == "Ask why."


@pytest.mark.parametrize(
    ("status", "body"), [(204, b""), (202, b'{"queued":true}'), (300, b"choose"), (304, b"")]
)
def test_c5_a_strange_status_without_a_page_is_no_web_page(status, body):
    with (
        serve(handler=says(status, body)) as server,
        pytest.raises(errors.ProtocolError, match=f"not answer as a model server .*{status}"),
    ):
        chat_only(server.url)


class Starts(Handler):
    """A proxy that says 503 for the first requests, as while the server behind it restarts."""

    busy = 3

    def answer(self):
        if len(self.server.seen) < self.busy:
            self.server.seen.append((self.path, self.headers))
            self.reply(503, page("503 Service Temporarily Unavailable"), "text/html")
        else:
            super().answer()


def test_c5_a_start_waits_while_a_proxy_says_503(monkeypatch):
    """For a while, and then it says so."""
    from urisk_nb import LLMManager
    from urisk_nb.server import model_server

    steps = []
    monkeypatch.setattr(model_server, "BUSY_PAUSE_S", 0.02)
    with serve(handler=Starts) as server:
        manager = LLMManager.initialize_sync(url=server.url, progress=steps.append)
        manager.shutdown_sync()
    assert "The server answers 503, waiting" in "".join(map(str, steps))
    with (
        serve(handler=Starts, busy=99) as server,
        pytest.raises(errors.ServerBusy, match="HTTP 503: Service Temporarily Unavailable"),
    ):
        LLMManager.initialize_sync(url=server.url, outage_wait_s=0.1)


def test_c5_a_cloud_model_is_what_ollama_calls_one():
    """Only Ollama's own words, with the address where to sign in, speak of its cloud."""
    own = says(401, b'{"error":"unauthorized","signin_url":"https://ollama.com/connect"}')
    off = says(403, b'{"error":"ollama cloud is disabled: remote model is unavailable"}')
    for handler in (own, off):
        with serve(handler=handler) as server, pytest.raises(errors.CloudModelBlocked):
            chat_only(server.url)


def test_c5_an_empty_403_is_ollamas_and_the_fix_cures(monkeypatch):
    """Ollama on its own loopback refuses other names without a word."""

    class Strict(Handler):
        def answer(self):
            if self.headers["Host"] == "localhost":
                super().answer()
            else:
                self.reply(403, b"")

        def send_response(self, code, message=None):
            self.send_response_only(code, message)  # no header names the server

    with serve(handler=Strict) as server:
        with pytest.raises(errors.AccessDenied, match="another name") as caught:
            probe(server.url)
        name, _, value = caught.value.fix.removeprefix("%env ").partition(",")[0].partition("=")
        with pytest.raises(errors.AccessDenied) as again:  # headers of the user's own stay
            probe(server.url, headers="X-Team: blue")
        assert again.value.fix == "add Host: localhost to OLLAMA_HEADERS, then %urisk_start"
        with pytest.raises(errors.AccessDenied) as again:  # no advice in a circle
            probe(server.url, headers="Host: other")
        assert "localhost" not in again.value.fix
        monkeypatch.setenv(name, value)
        assert chat(server.url) == "Ask why."


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("run", [probe, chat_only])
def test_c5_a_redirect_is_said_and_not_followed(status, run, monkeypatch):
    """Where to, and the address that works; the key goes to nobody else."""
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)
    with serve(prefix="/new") as target:

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.reply(status, b"", Location=f"{target.url}/new{self.path}?token=abc")

        with (
            serve(handler=type("Moved", (Handler,), {"answer": answer})) as server,
            pytest.raises(errors.ProtocolError, match=f"{status}") as caught,
        ):
            run(server.url)
        assert f"{target.url}/new/api" in caught.value.message
        assert "abc" not in show(caught.value)
        assert not target.seen
        assert probe(caught.value.fix.partition("OLLAMA_URL=")[2].partition(",")[0]) == "0.33.0"


def test_c5_a_redirect_to_a_login_page_asks_for_the_login():
    sso = says(302, b"", Location="https://sso.example/login?next=1")
    with serve(handler=sso) as server, pytest.raises(errors.AccessDenied) as caught:
        probe(server.url)
    assert "https://sso.example/login" in caught.value.message
    assert "OLLAMA_API_KEY" in caught.value.fix


def test_c5_a_redirect_that_leads_nowhere_else_is_no_new_address():
    """A slash at the end of each path: no address helps, the proxy has to change."""

    def answer(self):
        self.reply(308, b"", Location=f"{self.path}/")

    with (
        serve(handler=type("Slash", (Handler,), {"answer": answer})) as server,
        pytest.raises(errors.ProtocolError, match=r"redirects to .*/api/version/ ") as caught,
    ):
        probe(server.url)
    assert "OLLAMA_URL=" not in caught.value.fix


def test_c5_a_path_that_is_closed_is_not_the_answer():
    """A gateway closes Ollama's own path, and serves or guards the other wire."""

    class Gateway(Handler):
        def answer(self):
            if self.path != "/v1/models":
                self.reply(403, b'{"message":"no such route"}')
            elif self.headers.get("Authorization") == f"Bearer {SECRET}":
                self.reply(200, b'{"object":"list","data":[{"id":"m"}]}')
            else:
                self.reply(401, b'{"message":"no key"}')

    with serve(handler=Gateway) as server:
        with pytest.raises(errors.AccessDenied, match=r"wants a login .*no key") as caught:
            probe(server.url)
        assert caught.value.fix.startswith("put OLLAMA_API_KEY=... into .env")
        with open(".env", "w") as file:
            file.write(f"OLLAMA_API_KEY={SECRET}\n")
        assert probe(server.url) == ""


PAGES = {
    "title": (page("Sign in to WiFi"), "text/html", "Sign in to WiFi"),
    "no type": (page("Sign in"), "application/json", "Sign in"),
    "heading": (b"<h1>Access <b>denied</b></h1><p>Ask IT", "text/html", "Access denied"),
    "script": (b"<script>var a = '<p>';</script>", "text/html", "a web page"),
}


@pytest.mark.parametrize("case", PAGES)
@pytest.mark.parametrize("run", [probe, chat_only])
def test_c5_a_captive_portal_is_a_web_page(case, run):
    """page-assist#106: 200 and HTML, at the start and in the middle of a run."""
    body, kind, said = PAGES[case]
    with (
        serve(handler=says(200, body, kind)) as server,
        pytest.raises(errors.ServerError, match=said) as caught,
    ):
        run(server.url)
    assert "<" not in show(caught.value)


# C14: addresses -----------------------------------------------------------------------------------

ADDRESSES = [
    ("localhost", "http://localhost:11434", "127.0.0.1"),
    ("localhost:5000/", "http://localhost:5000", "127.0.0.1"),
    ("HTTP://LocalHost:11434//", "http://localhost:11434", "127.0.0.1"),
    ("http://localhost", "http://localhost", "127.0.0.1"),
    ("localhost6", "http://localhost6:11434", "::1"),
    ("localhost4:1", "http://localhost4:1", "127.0.0.1"),
    ("::", "http://localhost:11434", "127.0.0.1"),
    ("[::]:9000", "http://localhost:9000", "127.0.0.1"),
    ("::1", "http://[::1]:11434", "::1"),
    ("[::1]", "http://[::1]:11434", "::1"),
    ("[::1]:11434", "http://[::1]:11434", "::1"),
    ("::1:11434", "http://[::1]:11434", "::1"),
    ("0.0.0.0", "http://127.0.0.1:11434", "127.0.0.1"),
    ("http://0.0.0.0:80", "http://127.0.0.1:80", "127.0.0.1"),
    (":8080", "http://127.0.0.1:8080", "127.0.0.1"),
    ("gpu-box", "http://gpu-box:11434", "gpu-box"),
    ("localhost.example", "http://localhost.example:11434", "localhost.example"),
    ("gw.example/ollama/", "http://gw.example:11434/ollama", "gw.example"),
    ("https://GW.example/Ollama", "https://gw.example/Ollama", "gw.example"),
    ("https://localhost/v1", "https://localhost/v1", "localhost"),
]


@pytest.mark.parametrize("variable", ["OLLAMA_URL", "OLLAMA_HOST"])
@pytest.mark.parametrize(("given", "url", "host"), ADDRESSES)
def test_c14_each_form_of_an_address_is_read(monkeypatch, variable, given, url, host):
    """ollama-python#471: as Ollama's own client reads them, in both variables."""
    monkeypatch.setenv(variable, given)
    settings = load()
    assert (settings.url, settings.host) == (url, host)
    assert settings.is_loopback == (host in ("127.0.0.1", "::1", "localhost"))


def test_c14_a_bad_ollama_host_is_blamed_on_it(monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:port")
    with pytest.raises(errors.SettingsError, match=r"^OLLAMA_HOST is '127.0.0.1:port'") as caught:
        load()
    name, _, value = caught.value.fix.removeprefix("%env ").partition("=")
    monkeypatch.setenv(name, value)
    assert load().port == 11434


def test_c14_an_unknown_name_is_no_server_to_start(monkeypatch):
    """The name is what is wrong, and no program on this machine cures it."""

    def look_up(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(errors.ServerNotRunning, match=r"no address of gw\.invalid") as caught:
        probe("http://gw.invalid")
    assert "OLLAMA_URL" in caught.value.fix


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("name", ["localhost", "localhost6", "[::]", "[::1]"])
def test_c14_a_server_on_the_other_loopback_is_found(name, monkeypatch):
    """It listens on ::1 alone; `localhost` is both, and calls go where the probe went."""
    with serve("::1") as server:
        monkeypatch.setenv("OLLAMA_HOST", f"{name}:{server.port}")
        assert chat() == "Ask why."
        assert load().port == server.port
