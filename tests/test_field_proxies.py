"""
Certificates and proxies of real users, by the numbers of the reports: table C, rows C4, C5, C6.

Proxies are a real nginx (`apt-get install nginx-light`); certificates are real ones, made by
`openssl` for the test. Where a program is missing its tests are skipped.
"""

import base64
import contextlib
import os
import shutil
import ssl
import subprocess
import textwrap
import threading

import httpx
import pytest

from harness import Kernel, OllamaProgram, eventually, free_port
from small_server import Handler, chat, chat_only, page, probe, says, serve, show
from urisk_nb import LLMManager, errors, event_loop
from urisk_nb.llm.client import Client
from urisk_nb.llm.snapshot import probe_server
from urisk_nb.settings import load

pytestmark = pytest.mark.slow

SECRET = "s3cret-Value"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, run_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_folder))
    return tmp_path


# C4: TLS ------------------------------------------------------------------------------------------


def openssl(*arguments, cwd):
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A company CA, and certificates for localhost: good, expired, for another name."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "9"),
        *("-subj", "/CN=Company CA"),
        cwd=folder,
    )
    for name, days, names in (
        ("good", "9", "DNS:localhost,IP:127.0.0.1"),
        ("expired", "-1", "DNS:localhost,IP:127.0.0.1"),
        ("other", "9", "DNS:gw.example"),
    ):
        request = (*key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=server")
        openssl("req", "-new", *request, cwd=folder)
        (folder / "names").write_text(f"subjectAltName={names}\n")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", days, "-extfile", "names", "-out", f"{name}.pem"),
            cwd=folder,
        )
    openssl("x509", "-in", "ca.pem", "-outform", "der", "-out", "ca.cer", cwd=folder)
    (folder / "folder").mkdir()
    shutil.copy(folder / "ca.pem", folder / "folder" / "company.crt")
    (folder / "folder" / "README").write_text("no certificate")
    return folder


def wear(folder, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


@pytest.mark.parametrize(
    ("variable", "path"),
    [("SSL_CERT_FILE", "ca.pem"), ("SSL_CERT_FILE", "ca.cer"), ("SSL_CERT_DIR", "folder")],
)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_c4_a_company_ca_is_trusted(certificates, monkeypatch, variable, path, host):
    """As PEM, as DER, or in a folder under any name; from the environment or from .env."""
    with serve(trust=wear(certificates, "good")) as server:
        url = f"https://{host}:{server.port}"
        monkeypatch.setenv(variable, str(certificates / path))
        assert chat(url) == "Ask why."
        monkeypatch.delenv(variable)
        with open(".env", "w") as file:
            file.write(f"{variable}={certificates / path}\n")
        assert probe(url) == "0.33.0"


def test_c4_an_unknown_ca_is_said_and_the_fix_cures(certificates, monkeypatch):
    """The fix names the file that another tool's variable has."""
    with serve(trust=wear(certificates, "good")) as server:
        with pytest.raises(errors.TlsFailed, match="issuer is not trusted") as caught:
            probe(server.url)
        assert "SSL_CERT_FILE" in caught.value.fix
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
        with pytest.raises(errors.TlsFailed) as caught:
            probe(server.url)
        name, _, value = caught.value.fix.removeprefix("%env ").partition(" (")[0].partition("=")
        monkeypatch.setenv(name, value)
        assert probe(server.url) == "0.33.0"


def test_c4_several_servers_over_https_are_one_session(certificates, monkeypatch):
    """Calls go to both; a gateway that lets no list of loaded models through is no trouble."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    trust = wear(certificates, "good")
    with serve(trust=trust) as one, serve(trust=trust) as other:
        urls = [f"https://localhost:{server.port}" for server in (one, other)]
        manager = LLMManager.initialize_sync(url=urls)
        try:
            calls = [event_loop.submit(manager.generate(f"Why {n}?")) for n in range(4)]
            assert [str(call.wait()) for call in calls] == ["Ask why."] * 4
            now = manager.snapshot(event_loop.run(probe_server(manager)))
        finally:
            manager.shutdown_sync()
        asked = [[path for path, _ in server.seen].count("/api/chat") for server in (one, other)]
    assert min(asked) > 1, asked
    assert (now.probe.problem, now.probe.loaded_models, now.is_loaded) == ("", None, None)


@pytest.mark.parametrize(
    ("name", "said"), [("expired", "has expired"), ("other", "for another name than localhost")]
)
def test_c4_a_bad_certificate_is_said_in_one_sentence(certificates, monkeypatch, name, said):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    with (
        serve(trust=wear(certificates, name)) as server,
        pytest.raises(errors.TlsFailed, match=said) as caught,
    ):
        probe(f"https://localhost:{server.port}")
    assert "_ssl.c" not in show(caught.value)


def test_c4_http_and_https_are_told_apart(certificates, monkeypatch):
    """Each fix is an address that works."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    with serve(trust=wear(certificates, "good")) as tls, serve() as plain:
        for url in (tls.url.replace("https", "http"), plain.url.replace("http", "https")):
            with pytest.raises(errors.ServerError, match="TLS") as caught:
                probe(url)
            cured = caught.value.fix.partition("OLLAMA_URL=")[2].split()[0]
            assert probe(cured) == "0.33.0"


def test_c4_a_gateway_that_wants_a_certificate_of_yours_is_said(certificates, monkeypatch):
    """mTLS is not supported: in the handshake, by an alert after it (TLS 1.3), and as a page."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    wanted, old = wear(certificates, "good"), wear(certificates, "good")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    for context in (wanted, old):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.pem")
    title = page("400 No required SSL certificate was sent")
    with (
        serve(trust=wanted) as strict,
        serve(trust=old) as stricter,
        serve(trust=wear(certificates, "good"), handler=says(400, title, "text/html")) as polite,
    ):
        for server in (strict, stricter, polite):
            with pytest.raises(errors.TlsFailed) as caught:
                probe(server.url)
            assert "certificate of yours" in show(caught.value)
            assert "sends no certificate" in caught.value.fix
        with pytest.raises(errors.TlsFailed, match="certificate of yours"):
            chat_only(polite.url)


def test_c4_an_alert_that_httpx_passes_on_is_an_error_of_ours(monkeypatch):
    """With TLS 1.3 it comes with the first read, after the handshake."""

    def refuse(_):
        exc = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] certificate required")
        exc.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        raise exc

    async def ask():
        client = Client(load(url="https://gw.example"), transport=httpx.MockTransport(refuse))
        try:
            await client.chat(b"{}")
        finally:
            await client.aclose()

    with pytest.raises(errors.TlsFailed, match="wants a certificate of yours"):
        event_loop.run(ask())


@pytest.mark.parametrize(
    ("variable", "content"),
    [("SSL_CERT_FILE", None), ("SSL_CERT_FILE", "x"), ("SSL_CERT_DIR", None)],
)
def test_c4_a_wrong_path_is_said_where_it_matters(monkeypatch, tmp_path, variable, content):
    """It is named over https; over http nobody needs it."""
    path = tmp_path / "missing"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(errors.SettingsError, match=f"{variable} .*missing"):
        probe("https://127.0.0.1:1")
    with serve() as server:
        assert probe(server.url) == "0.33.0"


def test_c4_no_redirect_leads_from_https_to_http(certificates, monkeypatch):
    """Neither does the fix: key and text would be readable on the way."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)
    with serve() as plain:

        def answer(self):
            self.reply(301, b"", Location=plain.url + self.path)

        handler = type("Down", (Handler,), {"answer": answer})
        with (
            serve(trust=wear(certificates, "good"), handler=handler) as server,
            pytest.raises(errors.ProtocolError, match=plain.url) as caught,
        ):
            probe(server.url)
        assert "OLLAMA_URL" not in caught.value.fix
        assert not plain.seen


# Behind nginx -------------------------------------------------------------------------------------

CONFIG = """
    daemon off;
    master_process off;
    pid {folder}/nginx.pid;
    error_log {folder}/error.log;
    events {{ }}
    http {{
        access_log off;
        client_body_temp_path {folder}/body;
        proxy_temp_path {folder}/proxy;
        fastcgi_temp_path {folder}/fastcgi;
        uwsgi_temp_path {folder}/uwsgi;
        scgi_temp_path {folder}/scgi;
        server {{
            listen 127.0.0.1:{port};
            location /plain/ {{ proxy_pass {up}/; }}
            location /unbuffered/ {{ proxy_pass {up}/; proxy_buffering off; }}
            location /gzip/ {{
                proxy_pass {up}/;
                gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;
            }}
            location /login/ {{
                proxy_pass {up}/;
                auth_basic "gateway"; auth_basic_user_file {folder}/users;
            }}
            location /closed/ {{ deny all; }}
            location /down/ {{ proxy_pass http://127.0.0.1:{closed}/; }}
            location /slow/ {{ proxy_pass {up}/slow/; proxy_read_timeout 100ms; }}
            location /small/ {{ proxy_pass {up}/; client_max_body_size 1k; }}
            location /moved/ {{ return 301 http://127.0.0.1:{port}/plain$uri; }}
            location /up/ {{ rewrite ^/up/(.*) https://localhost:{tls}/$1 redirect; }}
            location /busy/ {{ return 503; }}
        }}
        server {{
            listen 127.0.0.1:{tls} ssl;
            ssl_certificate {certificates}/good.pem;
            ssl_certificate_key {certificates}/good.key;
            location / {{ proxy_pass {up}; }}
        }}
    }}
"""


class Slow(Handler):
    """Below /slow/ it answers after a while, as a model that thinks."""

    def answer(self):
        if self.path.startswith("/slow/"):
            self.server.waits.wait(0.4)
        super().answer()


class Proxy:
    """The addresses of the nginx, and its upstream."""

    def __init__(self, port, tls, upstream):
        self.port, self.tls, self.upstream = port, tls, upstream

    def url(self, place, login=""):
        return f"http://{login}127.0.0.1:{self.port}/{place}"


@pytest.fixture(scope="module")
def nginx(certificates, tmp_path_factory):
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip("needs nginx: apt-get install nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "users").write_text(f"me:{{PLAIN}}{SECRET}\n")
    with serve(handler=Slow) as upstream:
        upstream.waits = threading.Event()
        port, tls, closed = free_port(), free_port(), free_port()
        config = CONFIG.format(
            folder=folder,
            port=port,
            tls=tls,
            closed=closed,
            up=upstream.url,
            certificates=certificates,
        )
        (folder / "nginx.conf").write_text(textwrap.dedent(config))
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        with subprocess.Popen([*command, "-e", str(folder / "error.log")]) as process:
            try:
                eventually(lambda: answers(port), what=(folder / "error.log").read_text)
                yield Proxy(port, tls, upstream)
            finally:
                upstream.waits.set()
                process.terminate()


def answers(port):
    with contextlib.suppress(errors.ServerError):
        return probe(f"http://127.0.0.1:{port}/plain")
    return None


@pytest.mark.parametrize("place", ["plain", "unbuffered", "gzip", "plain/v1/"])
def test_c4_a_stream_comes_through_nginx(nginx, place):
    """A prefix, with buffering and without, with gzip switched on."""
    assert chat(nginx.url(place)) == "Ask why."


def test_c4_basic_auth_of_nginx(nginx):
    """The fix names the form; with the right password it works, with a wrong one that is said."""
    with pytest.raises(errors.AccessDenied, match="wants a login") as caught:
        probe(nginx.url("login"))
    url = caught.value.fix.partition("OLLAMA_URL=")[2].split()[0]
    login = url.replace("USER", "me").replace("PASSWORD", SECRET)
    assert chat(login) == "Ask why."
    with pytest.raises(errors.AccessDenied, match="not accept the user and password"):
        probe(nginx.url("login", "me:wrong@"))


SEEN = {
    "down": (errors.ServerConnectionLost, "cannot reach the model server.*Bad Gateway"),
    "slow": (errors.ServerTimeout, "waited too long.*Gateway Time-out"),
    "closed": (errors.AccessDenied, "does not let you in.*Forbidden"),
    "busy": (errors.ServerBusy, "Service Temporarily Unavailable"),
    "nowhere": (errors.ServerError, "/api/"),
}


@pytest.mark.parametrize("run", [probe, chat_only])
@pytest.mark.parametrize("place", SEEN)
def test_c5_what_nginx_says_is_one_sentence(nginx, place, run):
    kind, said = SEEN[place]
    with pytest.raises(kind, match=said) as caught:
        run(nginx.url(place))
    assert "<" not in show(caught.value)


def test_c5_a_file_that_is_too_large_for_nginx_is_said(nginx, tmp_path):
    """`urisk install-judge` sends 145 MB, and nginx takes 1 MB where nobody has set more."""
    (tmp_path / "file").write_bytes(bytes(2000))

    async def send():
        client = Client(load(url=nginx.url("small")))
        try:
            await client.put_blob("sha256:0", tmp_path / "file")
        finally:
            await client.aclose()

    with pytest.raises(errors.BadRequest, match="no request of this size") as caught:
        event_loop.run(send())
    assert "client_max_body_size" in caught.value.fix


def test_c4_tls_ends_at_nginx(nginx, certificates, monkeypatch):
    """Also the page that nginx shows to http on its https port, and its redirect to https."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    assert chat(f"https://localhost:{nginx.tls}") == "Ask why."
    for url in (f"http://127.0.0.1:{nginx.tls}", nginx.url("up")):
        with pytest.raises(errors.ServerError) as caught:
            probe(url)
        cured = caught.value.fix.partition("OLLAMA_URL=")[2].partition(",")[0]
        assert cured.startswith("https://"), show(caught.value)
        assert probe(cured) == "0.33.0"


# In a kernel --------------------------------------------------------------------------------------

CELLS = (
    "%load_ext urisk_nb",
    "%urisk_start",
    "%%ask\nwhy?",
    "%%risk --evidence evidence\nAAA",
    "%urisk_status",
    "%urisk_dashboard",
    "table = _urisk_last = None",
)


def test_c4_no_output_of_a_notebook_has_the_secret(tmp_path, run_folder):
    """
    Cells of a kernel, what the guardian and its server were started with, and all files that were
    written: the server is one that we start.
    """
    OllamaProgram(tmp_path / "bin")
    port = free_port()
    env = {
        "OLLAMA_URL": f"http://me:{SECRET}@localhost:{port}",
        "OLLAMA_API_KEY": f"key-{SECRET}",
        "OLLAMA_HEADERS": f"X-Key: header-{SECRET}",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(run_folder),
        "HOME": str(tmp_path),
    }
    kernel = Kernel(env, cwd=str(tmp_path))
    try:
        kernel.good("evidence = [{'ticker': 'AAA', 'text': 'The company was fined in May.'}]")
        seen = [str(kernel.run(cell).__dict__) for cell in CELLS]
        kernel.good("from urisk_nb import LLMManager; m = LLMManager.get_instance()")
        seen.append(kernel.value("repr(m), repr(m.settings), m.snapshot(), list(m.calls.records)"))
        pids = kernel.value("m.server.lease.guardian, m.server.lease.server_pid")
        for pid in pids.split():
            for name in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    seen.append(file.read().decode())
        files = [path for path in run_folder.rglob("*") if path.is_file()]
        seen += [path.read_text(errors="replace") for path in files]
        assert files
    finally:
        kernel.stop()
    coded = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert "is ready" in "".join(seen)
    assert not [text for text in seen if SECRET in text or coded in text]
