"""What the HTTP statuses of gateways, proxies and login pages mean: one sentence each, and a fix.

Speaks of what stands between, whichever wire the server behind it speaks. What a model server says
itself, as JSON, is left to its dialect, but for keys and redirects.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit, urlunsplit

from urisk_nb import errors
from urisk_nb.llm.dialects.dialect import TITLE, clean_words, extract_error_text
from urisk_nb.llm.tls import NO_CLIENT_CERTIFICATE, speaks_tls, wants_certificate
from urisk_nb.settings import Settings

__all__ = ["Reply", "describe_page", "describe_refusal", "is_page", "read_title"]

H1 = re.compile(r"<h1\b[^>]*>(.*?)</h1", re.IGNORECASE | re.DOTALL)
REDIRECTS = (301, 302, 303, 307, 308)
UNREACHABLE = (502, 520, 521, 522, 523, 530)  # 52x: of Cloudflare
TOO_LONG = (504, 524, 598)
LOG_IN = (
    "put OLLAMA_API_KEY=... into .env (or OLLAMA_HEADERS=Name: value, or USER:PASSWORD@ into "
    "OLLAMA_URL), then %urisk_start"
)
BASIC = "put OLLAMA_URL={url} into .env, then {unset}%urisk_start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """
    A reply as far as it is judged here.

    Attributes
    ----------
    status, headers, text
        As they came; `headers` finds names in any case.
    path
        What was asked, without the address.
    shown
        The text without the secrets that the server may repeat: what a message may show.
    """

    status: int
    headers: Mapping[str, str]
    text: str
    path: str
    shown: str

    @property
    def has_own_words(self) -> bool:
        """Whether the body is JSON that says what is wrong: the server itself speaks."""
        try:
            content = json.loads(self.text)
        except (ValueError, RecursionError):
            return False
        return isinstance(content, dict) and bool({"error", "message", "detail"} & set(content))

    @property
    def said(self) -> str:
        """The status, and the server's words or the title of its page, in one line."""
        words = clean_words(read_title(self.shown) or extract_error_text(self.shown))
        words = re.sub(rf"^{self.status}\b[\s:-]*", "", words).rstrip(".")
        return f"HTTP {self.status}: {words}" if words else f"HTTP {self.status}"


def describe_refusal(reply: Reply, settings: Settings) -> errors.UriskError | None:
    """Return what a refusal means; None where the server's dialect says it."""
    if reply.status in REDIRECTS and reply.headers.get("location"):
        return _describe_redirect(reply, settings)
    if speaks_tls(reply.status, reply.text) and not settings.is_tls:
        return errors.TlsFailed(
            f"{settings.url} speaks TLS, and was asked without ({reply.said}).",
            fix=f"%env OLLAMA_URL=https{settings.url[4:]}",
            status=reply.status,
        )
    if settings.is_tls and wants_certificate(reply.status, reply.text):
        return errors.TlsFailed(
            f"{settings.url} wants a certificate of yours ({reply.said}).",
            fix=NO_CLIENT_CERTIFICATE,
            status=reply.status,
        )
    if reply.status in (401, 403, 407):
        return _describe_login(reply, settings)
    found = _find_meaning(reply)
    if found is None:
        return None
    kind, what, fix = found
    return kind(
        f"{settings.url} {what} ({reply.said}).", fix=fix, status=reply.status, said=reply.said
    )


Meaning = tuple[type[errors.UriskError], str, str]
"""The error, what the address does, and the fix."""
TOO_SLOW: Meaning = (
    errors.ServerTimeout,
    "has a proxy that waited too long for the model server",
    "give the proxy more time (nginx: proxy_read_timeout 600s), then ask again",
)
DOWN: Meaning = (
    errors.ServerConnectionLost,
    "has a proxy that cannot reach the model server",
    "start the model server behind the proxy, then ask again",
)
WAIT = "wait, then ask again; or ask less at once: %env URISK_PARALLEL=1"
# Whoever says it
OF_ALL: dict[int, Meaning] = {
    **dict.fromkeys(TOO_LONG, TOO_SLOW),
    408: (
        errors.ServerConnectionLost,
        "waited too long for the request",
        "ask again; if it goes on, look at the network and at the proxy before the server",
    ),
    511: (
        errors.AccessDenied,
        "is behind a login of the network",
        "open the address in a browser and log in, then ask again",
    ),
    413: (
        errors.BadRequest,
        "takes no request of this size",
        "let the proxy take larger ones (nginx: client_max_body_size 0), or send less text",
    ),
}
# Unless the model server itself says why
OF_PROXIES: dict[int, Meaning] = {
    **dict.fromkeys(UNREACHABLE, DOWN),
    **dict.fromkeys((429, 529), (errors.ServerBusy, "takes no more requests for now", WAIT)),
    503: (errors.ServerBusy, "is busy or being started", WAIT),
}


def _find_meaning(reply: Reply) -> Meaning | None:
    if reply.status in OF_ALL:
        return OF_ALL[reply.status]
    if reply.has_own_words:
        return None
    if reply.status in OF_PROXIES:
        return OF_PROXIES[reply.status]
    return _find_page_meaning(reply) if is_page(reply) else None


def _find_page_meaning(reply: Reply) -> Meaning:
    """Return the meaning of a page: a proxy or another program wrote it, no model server."""
    if reply.status in (404, 405):
        return (
            errors.ProtocolError,
            f"has no model server's {reply.path}",
            "check the address and its path in OLLAMA_URL",
        )
    if reply.status >= 500:
        return (
            errors.ServerInternalError,
            "failed",
            "ask again; if it goes on, look at the logs of the server and of its proxy",
        )
    return (
        errors.BadRequest,
        "refused the request",
        "look at the log of the proxy before the server; it says why",
    )


# Logins -------------------------------------------------------------------------------------------


def _describe_login(reply: Reply, settings: Settings) -> errors.UriskError | None:
    words = extract_error_text(reply.text)
    if reply.status == 407:
        return errors.AccessDenied(
            f"a proxy before {settings.url} wants a login of its own ({reply.said}).",
            fix=_add_header(
                "Proxy-Authorization: Basic ...",
                "put OLLAMA_HEADERS=Proxy-Authorization: Basic ... into .env, then %urisk_start",
                settings,
            ),
            status=407,
        )
    if '"signin_url"' in reply.text or (
        reply.has_own_words and re.search(r"\bcloud\b|remote model", words, re.IGNORECASE)
    ):
        return None  # Ollama's own cloud
    is_silent = reply.status == 403 and not reply.text.strip() and "server" not in reply.headers
    if is_silent and "host" not in map(str.lower, settings.request_headers):
        return errors.AccessDenied(
            f"{settings.url} does not let you in (HTTP 403, without a word): so does an Ollama "
            "that listens on its own machine only, to another name than localhost.",
            fix=_add_header(
                "Host: localhost",
                "%env OLLAMA_HEADERS=Host: localhost, then %urisk_start",
                settings,
            ),
            status=403,
        )
    sent = settings.credential
    if sent == "OLLAMA_HEADERS":  # they may hold a key, or only say who asks
        return errors.AccessDenied(
            f"{settings.url} does not let you in with the headers of {sent} ({reply.said}).",
            fix=f"check {sent}; if a login is wanted beside them: {LOG_IN}",
            status=reply.status,
        )
    if sent:
        return errors.AccessDenied(
            f"{settings.url} does not accept {sent} ({reply.said}).",
            fix=f"check {sent}, then %urisk_start",
            status=reply.status,
        )
    what = f"wants a login ({reply.said}), and urisk_nb sent none"
    if reply.status == 403:
        what = f"does not let you in ({reply.said}); urisk_nb sent no login"
    is_basic = reply.headers.get("www-authenticate", "").lower().startswith("basic")
    mine = re.sub(r"://", "://USER:PASSWORD@", settings.url, count=1)
    return errors.AccessDenied(
        f"{settings.url} {what}.",
        # A variable of the environment goes before the file
        fix=BASIC.format(
            url=mine, unset="%env OLLAMA_URL= and " if os.environ.get("OLLAMA_URL") else ""
        )
        if is_basic
        else LOG_IN,
        status=reply.status,
    )


def _add_header(header: str, fix: str, settings: Settings) -> str:
    """Return the fix that sends one more header; those that are sent already stay."""
    if settings.headers is None:
        return fix
    return f"add {header} to OLLAMA_HEADERS, then %urisk_start"


# Redirects ----------------------------------------------------------------------------------------


def _describe_redirect(reply: Reply, settings: Settings) -> errors.UriskError:
    """None is followed: a key, and the evidence, go to the address that was named alone."""
    base = settings.url.removesuffix("/v1")
    target = urlsplit(urljoin(base + reply.path, reply.headers["location"]))
    host = target.netloc.rpartition("@")[2]
    shown = urlunsplit((target.scheme, host, target.path, "", ""))  # a query may carry a key
    leads_to = clean_words(settings.redact(shown))
    seen = f"{settings.url} redirects to {leads_to} (HTTP {reply.status})."
    path = target.path.rstrip("/")
    moved = f"{target.scheme}://{host}{path.removesuffix(reply.path)}"
    is_same_path = path.endswith(reply.path)
    if settings.is_tls and target.scheme == "http":
        return errors.ProtocolError(
            seen,
            fix="have the proxy keep https: over http your text and key would be readable",
            status=reply.status,
        )
    if is_same_path and moved != base:
        login = " (with your user and password in it)" if "user" in settings.credential else ""
        fix = f"%env OLLAMA_URL={moved}{login}, then %urisk_start"
        return errors.ProtocolError(seen, fix=fix, status=reply.status)
    if is_same_path:
        fix = "have the proxy pass the path on as it is, without a redirect"
        return errors.ProtocolError(seen, fix=fix, status=reply.status)
    fix = f"if that is a login page: {LOG_IN}; else check OLLAMA_URL"
    return errors.AccessDenied(seen, fix=fix, status=reply.status)


# Pages --------------------------------------------------------------------------------------------


def is_page(reply: Reply) -> bool:
    """Return whether a reply is a web page, by its type or by its first characters."""
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") or reply.text.lstrip().startswith("<")


def read_title(text: str) -> str:
    """
    Return what a page says of itself, without its tags; empty where the text is no page.

    Examples
    --------
    >>> read_title("<html><head><title>502 Bad Gateway</title></head>...")
    '502 Bad Gateway'
    >>> read_title("<h1>Access denied</h1><p>Ask <b>IT</b>.")
    'Access denied'
    """
    if not text.lstrip().startswith("<"):
        return ""
    found = TITLE.search(text) or H1.search(text)
    bare = found[1] if found else re.sub(r"(?is)<(script|style)\b.*?</\1", " ", text)
    return " ".join(html.unescape(re.sub(r"<[^>]*(>|$)", " ", bare)).split()) or "a web page"


def describe_page(reply: Reply, settings: Settings) -> errors.ProtocolError:
    """
    Return the error for a web page where an answer was expected: a login, a captive portal; and for
    a status that no model server has.
    """
    if reply.status != 200 and not is_page(reply):
        return errors.ProtocolError(
            f"{settings.url} does not answer as a model server ({reply.said}).",
            fix="check OLLAMA_URL, and what the proxy before the server does",
            status=reply.status,
        )
    title = clean_words(read_title(reply.shown)) or "an empty one"
    return errors.ProtocolError(
        f"{settings.url} answers with a web page ({title}), not as a model server.",
        fix="open it in a browser: log in there, or correct OLLAMA_URL",
        status=reply.status,
    )
