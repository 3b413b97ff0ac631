"""Trust over https, and what a failed TLS handshake means.

Trusted are the certificates of SSL_CERT_FILE and SSL_CERT_DIR, as for Ollama's own client; without
them those of this system and those of httpx. Does not know how a connection is made.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from urisk_nb.errors import SettingsError, TlsFailed
from urisk_nb.settings import Settings

__all__ = [
    "describe_missing_tls",
    "describe_tls_end",
    "describe_tls_failure",
    "find_tls_error",
    "find_unknown_name",
    "is_cut_off",
    "is_tls_alert",
    "open_trust",
    "speaks_tls",
    "takes_tls",
    "wants_certificate",
]

UNKNOWN_CA = (2, 18, 19, 20, 21)  # X509_V_ERR_*: no issuer that is trusted, or self-signed
NOT_YET_VALID, EXPIRED = 9, 10
WRONG_NAME = (62, 64)  # of a host, of an address
# How OpenSSL reads the first bytes of a server that speaks something else
NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
BROKEN_OFF = ("UNEXPECTED_EOF_WHILE_READING", "")
CUT_OFF = ("EndOfStream", "BrokenResourceError")  # of anyio
OPENSSL_NAME = re.compile(r"[0-9a-f]{8}\.\d+")  # how a folder names what OpenSSL finds by itself
NO_CLIENT_CERTIFICATE = "use an address without one: urisk_nb sends no certificate"
# Other tools' variables for the same thing. Neither httpx nor Ollama's own client reads them
OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


def open_trust(settings: Settings, usual: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """
    Return the context for https.

    Parameters
    ----------
    settings
        `ca_file` and `ca_folder`.
    usual
        Called where neither is set: makes a context, and the system's certificates are added.

    Raises
    ------
    SettingsError
        The file or the folder cannot be read, or has no certificate.
    """
    if settings.ca_file is None and settings.ca_folder is None:
        context = usual()
        context.load_default_certs()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if settings.ca_file is not None:
            _add(context, settings.ca_file, "SSL_CERT_FILE")
        for folder in str(settings.ca_folder or "").split(os.pathsep):
            if folder:
                _add_folder(context, Path(folder))
    # Many a company's CA lacks what the strict mode of Python 3.13 wants; browsers take it
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _add(context: ssl.SSLContext, path: Path, variable: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise SettingsError(
            f"{variable} is {str(path)!r}, which cannot be read: {exc.strerror or exc}.",
            fix=f"%env {variable}=/path/of/the/ca.pem, or unset it, then %urisk_start",
            name=variable,
        ) from exc
    try:
        if b"-----BEGIN" in content:
            context.load_verify_locations(cafile=path)
        else:
            context.load_verify_locations(cadata=content)  # DER, as Windows exports it
    except (ssl.SSLError, ValueError) as exc:
        raise SettingsError(
            f"{variable} is {str(path)!r}, which has no certificate.",
            fix=f"%env {variable}=/path/of/the/ca.pem (PEM or DER), or unset it, then %urisk_start",
            name=variable,
        ) from exc


def _add_folder(context: ssl.SSLContext, folder: Path) -> None:
    """Add all certificates of a folder, whatever the files are called: so does Ollama's client."""
    try:
        files = sorted(folder.iterdir())
    except OSError as exc:
        raise SettingsError(
            f"SSL_CERT_DIR has {str(folder)!r}, which cannot be read: {exc.strerror or exc}.",
            fix="%env SSL_CERT_DIR=/folder/of/certificates, or unset it, then %urisk_start",
            name="SSL_CERT_DIR",
        ) from exc
    context.load_verify_locations(capath=folder)
    for file in files:
        if not OPENSSL_NAME.fullmatch(file.name) and file.is_file():
            try:
                context.load_verify_locations(cafile=file)
            except (OSError, ssl.SSLError):
                continue  # a key, a README


# Failures -----------------------------------------------------------------------------------------


def find_tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the error of the TLS library behind another one, if there is one."""
    for one in _walk_causes(error):
        if isinstance(one, ssl.SSLError):
            return one
    return None


def find_unknown_name(error: BaseException | None) -> str | None:
    """Return the system's words where a host's name could not be looked up."""
    for one in _walk_causes(error):
        if isinstance(one, socket.gaierror):
            return (one.strerror or str(one)).lower()
    return None


def _walk_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def describe_missing_tls(settings: Settings) -> TlsFailed:
    """Return the error for a server that speaks TLS and was asked in plain text."""
    return TlsFailed(
        f"{settings.url} speaks TLS, and was asked without.",
        fix=f"%env OLLAMA_URL=https{settings.url[4:]}",
    )


def describe_tls_end(settings: Settings) -> TlsFailed:
    """Return the error for a server that takes the handshake, and then breaks the connection."""
    return TlsFailed(
        f"{settings.url} breaks the connection after the TLS handshake: so does a gateway that "
        "wants a certificate of yours.",
        fix=f"check the port; if that is so, {NO_CLIENT_CERTIFICATE}",
    )


async def takes_tls(host: str, port: int, within_s: float = 0.5) -> bool:
    """Return whether a server takes a TLS handshake; nothing is sent to it, so none is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(within_s):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


def is_cut_off(error: BaseException) -> bool:
    """Return whether a connection was taken and then closed in the middle of the handshake."""
    return any(
        isinstance(one, ConnectionResetError) or type(one).__name__ in CUT_OFF
        for one in _walk_causes(error)
    )


def describe_tls_failure(
    exc: ssl.SSLError, settings: Settings, environ: Mapping[str, str]
) -> TlsFailed:
    """Return the error for a handshake that failed: what is wrong, in one sentence, and the fix."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        seen, fix = _describe_certificate(exc, settings, environ)
    elif any(name in (exc.reason or "") for name in NO_TLS):
        seen, fix = "does not speak TLS", f"%env OLLAMA_URL=http{settings.url[5:]}"
        if settings.request_headers:
            fix += " (the key then crosses the network as plain text)"
    elif "CERTIFICATE_REQUIRED" in (exc.reason or ""):
        seen, fix = "wants a certificate of yours", NO_CLIENT_CERTIFICATE
    elif (exc.reason or "") in BROKEN_OFF or isinstance(exc, ssl.SSLEOFError):
        seen = "broke off the TLS handshake"
        fix = f"check the port; if it speaks plain http: %env OLLAMA_URL=http{settings.url[5:]}"
    else:
        words = (exc.reason or str(exc)).replace("_", " ").lower()
        seen, fix = f"broke off the TLS handshake ({words})", "check the TLS of that server"
        if "HANDSHAKE_FAILURE" in (exc.reason or ""):  # all that TLS 1.2 says of a certificate
            fix += f"; if it wants a certificate of yours, {NO_CLIENT_CERTIFICATE}"
    return TlsFailed(f"{settings.url} {seen}.", fix=fix)


def _describe_certificate(
    exc: ssl.SSLCertVerificationError, settings: Settings, environ: Mapping[str, str]
) -> tuple[str, str]:
    if exc.verify_code in UNKNOWN_CA:
        seen = f"has a certificate whose issuer is not trusted here ({exc.verify_message})"
        return seen, _find_ca(settings, environ)
    if exc.verify_code == EXPIRED:
        return (
            "has a certificate that has expired",
            "have it renewed where that server runs, or check this machine's date",
        )
    if exc.verify_code == NOT_YET_VALID:
        return "has a certificate that is not valid yet", "check this machine's date: `date`"
    if exc.verify_code in WRONG_NAME:
        return (
            f"has a certificate for another name than {settings.host}",
            "use the name that the certificate has: %env OLLAMA_URL=https://NAME",
        )
    return (
        f"has a certificate that is refused ({exc.verify_message})",
        "have it replaced where that server runs",
    )


def _find_ca(settings: Settings, environ: Mapping[str, str]) -> str:
    given = {
        "SSL_CERT_FILE": settings.ca_file,
        "SSL_CERT_DIR": settings.ca_folder,
    }
    is_set = " and ".join(f"{name} ({path})" for name, path in given.items() if path)
    for name in OTHERS:
        path = environ.get(name, "")
        if path and Path(path).is_file() and Path(path) != settings.ca_file:
            return f"%env SSL_CERT_FILE={path} (the value of {name}), then %urisk_start"
    if is_set:
        return f"add your company's CA to {is_set}, then %urisk_start"
    return "%env SSL_CERT_FILE=/path/of/your/company-ca.pem, then %urisk_start"


def is_tls_alert(words: str) -> bool:
    r"""Return whether what came for an answer is TLS: an alert to a request in plain text."""
    return re.search(r"illegal status line: bytearray\(b['\"]\\x1[56]\\x03", words) is not None


def speaks_tls(status: int, text: str) -> bool:
    """Return whether a server says that its port wants https, as nginx, Go and Apache do."""
    wanted = re.search(r"https (server|port)|SSL-enabled", text, re.IGNORECASE)
    return status in (400, 426, 497) and wanted is not None


def wants_certificate(status: int, text: str) -> bool:
    """Return whether a proxy wants a certificate of its clients, as nginx and Apache say it."""
    wanted = re.search(r"SSL certificate|client certificate", text, re.IGNORECASE)
    return status in (400, 403, 495, 496) and wanted is not None
