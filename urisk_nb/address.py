"""Addresses of servers as people write them, and header lines as they give them: text in, parts
out.

Reads an address as Ollama's own client does: without a scheme it has port 11434, with one the usual
port of that scheme. A user and a password are taken out of it, so that what is left can be shown.
Does not know what is sent where.
"""

from __future__ import annotations

import ipaddress
import json
import re
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = [
    "DEFAULT_PORT",
    "is_loopback",
    "list_dial_addresses",
    "mask_login",
    "parse_address",
    "parse_addresses",
    "parse_headers",
    "split_addresses",
    "split_login",
]

DEFAULT_PORT = 11434
MAX_ADDRESSES = 16  # servers of one session
# Names of this machine, and where they are dialed. They are not looked up: that fails while the
# interpreter exits. A server may listen at one of the two addresses only, so `localhost` is both.
BOTH, V4, V6 = ("127.0.0.1", "::1"), ("127.0.0.1",), ("::1",)
LOCAL_NAMES = {
    "localhost": BOTH,
    "localhost.localdomain": BOTH,
    "localhost4": V4,
    "localhost4.localdomain4": V4,
    "localhost6": V6,
    "localhost6.localdomain6": V6,
    "ip6-localhost": V6,
    "ip6-loopback": V6,
}
# "Any address", which a server listens at and nobody can dial
ANY = {"0.0.0.0": "127.0.0.1", "::": "localhost", "": "127.0.0.1"}  # noqa: S104  is not bound here
# The end of an endpoint, not of a server's address: what stands before it is one
ENDPOINT = re.compile(
    r"/(api(/(chat|copy|create|delete|embed|embeddings|generate|ps|pull|push|show|tags|version))?"
    r"|completions|v1/(embeddings|models|systemone))$"
)
HALF_A_SCHEME = re.compile(r"https?:(/|$)", re.IGNORECASE)
# Of a password, `@` and `:` may stand as they are; what ends the host may not
LOGIN = re.compile(r"([A-Za-z+.-]*://)?([^/?#:]*)(?::([^/?#]*))?@([^@]*)\Z", re.DOTALL)
# Between two addresses; one in a password has an `@` behind it, and no scheme before that
BETWEEN = re.compile(r",(?=[^@]*\Z|\s*[A-Za-z+.-]+://)")
NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # of a header's name, as HTTP has it
HEADER = re.compile(rf"\s*({NAME})\s*:(.*)", re.DOTALL)
NEXT_HEADER = re.compile(rf"[;\n]\s*(?={NAME}\s*:(?!//))")
# What the client itself sets: another value would break the request
OWN_HEADERS = frozenset(
    {
        *("accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
        *("expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)


def split_addresses(text: str) -> list[str]:
    """
    Return the addresses of a list with commas, as they are written.

    A comma may stand in a password where the next address has its scheme or no password.

    Examples
    --------
    >>> split_addresses("http://a:11434, b")
    ['http://a:11434', 'b']
    >>> split_addresses("http://me:p,ss@gw.example,https://you:pw@b")
    ['http://me:p,ss@gw.example', 'https://you:pw@b']
    """
    return [part.strip() for part in BETWEEN.split(text)]


def parse_addresses(text: str) -> str:
    """
    Return the addresses of a list in one form each, with commas between.

    Raises ValueError for a list with an address twice, with too many, or with what is no address;
    the message says what is wanted.

    Examples
    --------
    >>> parse_addresses("gpu-a, http://gpu-b:8000/v1")
    'http://gpu-a:11434,http://gpu-b:8000/v1'
    """
    given = split_addresses(text.strip().strip("\"'"))
    if len(given) == 1:
        return parse_address(text)
    if not all(given):
        raise ValueError("an address on both sides of each comma, such as http://a,http://b")
    if len(given) > MAX_ADDRESSES:
        raise ValueError(f"{MAX_ADDRESSES} addresses at most, not {len(given)}")
    urls: list[str] = []
    places: set[str] = set()  # `localhost` is two of them
    for one in given:
        urls.append(_parse_one_of_several(one))
        own = set(list_dial_addresses(urls[-1]))
        if own & places:
            raise ValueError(f"each server once; {mask_login(one)} is there twice")
        places |= own
    return ",".join(urls)


def _parse_one_of_several(text: str) -> str:
    try:
        return parse_address(text)
    except ValueError as exc:
        raise ValueError(f"{exc} at each place, not {mask_login(text)!r}") from exc


def split_login(text: str) -> tuple[str, str | None]:
    """
    Return an address without its user and password, and these as `user:password`, decoded.

    Examples
    --------
    >>> split_login("https://me:p%40ss@gw.example/ollama")
    ('https://gw.example/ollama', 'me:p@ss')
    >>> split_login("gw.example")
    ('gw.example', None)
    """
    found = LOGIN.match(text.strip())
    if found is None:
        return text, None
    scheme, user, password, rest = found.groups(default="")
    return f"{scheme}{rest}", f"{unquote(user)}:{unquote(password)}"


def mask_login(text: str) -> str:
    """
    Return an address, however wrong, without what may be a user, a password or a key.

    Examples
    --------
    >>> mask_login("http://me:pa/ss@host:1/v1?key=1")
    'http://***@host:1/v1?***'
    """
    text = re.sub(r"^([A-Za-z+.-]*://)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"\?.*", "?***", text, flags=re.DOTALL)[:200]


def parse_address(text: str) -> str:
    """
    Return an address in one form: with scheme, and without a slash at its end.

    Raises ValueError for what is no address of a server; the message says what is wanted.

    Examples
    --------
    >>> parse_address("localhost")
    'http://localhost:11434'
    >>> parse_address("HTTPS://GW.example/Ollama/")
    'https://gw.example/Ollama'
    >>> parse_address("::1")
    'http://[::1]:11434'
    """
    bare = text.strip().strip("\"'")
    scheme, mark, rest = bare.partition("://")
    is_cut = not mark and HALF_A_SCHEME.match(bare) is not None
    if not mark:
        scheme, rest = "http", bare
    authority, slash, tail = rest.partition("/")
    authority = _bracket(authority)
    is_port_only = not mark and authority.startswith(":")
    if not mark and not re.search(r":\d+$", authority):
        authority = f"{authority.removesuffix(':')}:{DEFAULT_PORT}"
    full = f"{scheme.lower()}://{authority}{slash}{tail}".rstrip("/")
    try:
        parts = urlsplit(full)
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError:
        port, host, parts = -1, "", urlsplit("")
    if is_cut or not (host or is_port_only) or port in (-1, 0) or not _is_plain(full, host, parts):
        raise ValueError(
            f"an address such as http://localhost:{DEFAULT_PORT} or http://localhost:8000/v1"
        )
    host = ANY.get(host, host)
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{'' if port is None else f':{port}'}{parts.path}"


def _bracket(authority: str) -> str:
    """Return the authority with brackets around an IPv6 address that lacks them."""
    if authority.startswith("[") or authority.count(":") < 2:
        return authority
    address, _, port = authority.rpartition(":")
    for host, rest in ((authority, ""), (address, f":{port}")):
        try:
            return f"[{ipaddress.IPv6Address(host)}]{rest}"
        except ValueError:
            continue
    return authority


def _is_plain(text: str, host: str, parts: SplitResult) -> bool:
    return (
        parts.scheme in ("http", "https")
        and not any(char.isspace() or char in "?#@" for char in text)
        and re.fullmatch(r"[\w.%:-]*", host) is not None
        and re.fullmatch(r"(/[\w.~%+:=,-]+)*", parts.path) is not None
        and ENDPOINT.search(parts.path) is None
    )


def list_dial_addresses(url: str) -> tuple[str, ...]:
    """
    Return the addresses that stand for one, in the order in which they are tried: names of this
    machine become numbers, and `/v1` at the end is left out, since each path has its own.

    Over https a name stays, because the certificate is for the name.

    Examples
    --------
    >>> list_dial_addresses("http://localhost:8000/v1")
    ('http://127.0.0.1:8000', 'http://[::1]:8000')
    """
    base = url.removesuffix("/v1")
    parts = urlsplit(base)
    host = parts.hostname or ""
    numbers = LOCAL_NAMES.get(host.rstrip(".")) if parts.scheme == "http" else None
    if numbers is None:
        return (base,)
    rest = f"{'' if parts.port is None else f':{parts.port}'}{parts.path}"
    return tuple(f"http://{f'[{one}]' if ':' in one else one}{rest}" for one in numbers)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name or number alone."""
    if host.rstrip(".") in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_headers(text: str) -> dict[str, str]:
    """
    Return header lines by name; written as JSON, or as `Name: value` separated by `;` or lines.

    A `;` separates only where a name and a colon follow, so that a cookie stays whole. Raises
    ValueError for anything else; the message says what is wanted, and never what was given.

    Examples
    --------
    >>> parse_headers("X-Team: risk; Cookie: a=1; b=2")
    {'X-Team': 'risk', 'Cookie': 'a=1; b=2'}
    >>> parse_headers('{"X-Team": "risk"}')
    {'X-Team': 'risk'}
    """
    given = _load_headers(text.strip())
    if len({name.lower() for name, _ in given}) < len(given):
        raise ValueError("each name once")
    for name, value in given:
        if name.lower() in OWN_HEADERS:
            raise ValueError(f"no {name}, which urisk_nb sets itself")
        if not re.fullmatch(NAME, name) or not is_header_value(value):
            raise ValueError("names and values that a header can have, in ASCII")
    return dict(given)


def is_header_value(value: str) -> bool:
    """Return whether a header can have this value: visible ASCII, and spaces between."""
    return value.isascii() and value.isprintable()


def _load_headers(text: str) -> list[tuple[str, str]]:
    if text.startswith("{"):
        try:
            content = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, list) and all(isinstance(one, str) for _, one in content):
            return [(name.strip(), value.strip()) for name, value in content]
        raise ValueError('a JSON object such as {"X-Team": "risk"}, each value a text')
    lines = [HEADER.fullmatch(line) for line in NEXT_HEADER.split(text.strip("; \n"))]
    if not all(lines):
        raise ValueError("`Name: value; Other-Name: value`, or JSON")
    return [(line[1], line[2].strip()) for line in lines if line]
