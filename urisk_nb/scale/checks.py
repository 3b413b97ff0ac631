"""What a client and its workers have to be, checked before the first question."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import urisk_nb
from urisk_nb.errors import ClusterLost, InputError, PackageMissing, WorkersDiffer
from urisk_nb.render.text_layout import cut
from urisk_nb.risk.values import describe_type

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "build_differences_error",
    "check_client",
    "describe_client",
    "find_differences",
    "open_client",
]

CONNECT_S = 5.0
MAX_NAMED = 5  # workers in one message
MAX_TEXT = 80  # of a text that is no client, in a message
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def check_client(client: object) -> None:
    """
    Check what was given as `client`; nothing is computed or sent.

    Raises
    ------
    PackageMissing
        The extra `scale` is not installed.
    InputError
        It is no client of Dask, an asynchronous one, or one that is closed.
    """
    _require_distributed()
    from distributed import Client

    if not isinstance(client, Client):
        raise InputError(
            f"client is {_describe_other(client)}, and no Client of Dask.",
            fix="make one and give it: from distributed import Client; "
            f"client = Client({_name_scheduler(client)})",
        )
    if client.asynchronous:
        raise InputError(
            f"client is asynchronous ({describe_client(client)}).",
            fix="give one that blocks: client = Client(ADDRESS), without asynchronous=True",
        )
    if client.status not in ("running", "connecting"):
        raise InputError(
            f"client is {client.status} ({describe_client(client)}).",
            fix="connect again: client = Client(ADDRESS)",
        )


def _describe_other(seen: object) -> str:
    return f"the text {cut(seen, MAX_TEXT)!r}" if isinstance(seen, str) else describe_type(seen)


def _name_scheduler(seen: object) -> str:
    """Return what a client is made of: what was given, where that leads to a scheduler."""
    if hasattr(seen, "scheduler_address"):
        return "cluster"
    return repr(seen) if isinstance(seen, str) and "://" in seen else "ADDRESS"


@contextlib.contextmanager
def open_client(address: str) -> Iterator[Client]:
    """
    Give a client of the scheduler at an address; closed at the end.

    Raises
    ------
    PackageMissing
        The extra `scale` is not installed.
    InputError
        It is no address, or has no port.
    ClusterLost
        No scheduler answers there.
    """
    _require_distributed()
    from distributed import Client

    _check_address(address)

    try:
        client: Client = Client(address, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as exc:
        raise ClusterLost(
            f"no scheduler of Dask answers at {address!r} ({type(exc).__name__}).",
            fix="check the address, such as tcp://host:8786, and that `dask scheduler` runs there",
        ) from exc
    try:
        yield client
    finally:
        client.close()  # type: ignore[no-untyped-call]


def _check_address(address: str) -> None:
    """Refuse what Dask would: a client that it has begun to make ends late, and not quietly."""
    from distributed.comm.addressing import get_address_host_port

    try:
        get_address_host_port(address)
    except ValueError as exc:
        raise InputError(
            f"{address!r} is no address of a scheduler: {exc}.",
            fix="give its host and port, such as tcp://host:8786",
        ) from exc


def _require_distributed() -> None:
    try:
        import distributed  # noqa: F401  is it there?
    except ImportError as exc:
        raise PackageMissing(
            "a run on a Dask cluster needs the package distributed, which is not installed.",
            fix='pip install "urisk-nb[scale]"',
        ) from exc


def describe_client(client: Client) -> str:
    """Return the address of the scheduler, as far as it is known."""
    scheduler = client.scheduler
    return "no scheduler" if scheduler is None else str(getattr(scheduler, "address", scheduler))


def find_differences(workers: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """
    Return the workers that cannot ask for this process, each with why.

    Parameters
    ----------
    workers
        What `Client.get_versions(packages=["urisk_nb"])` says of each.
    """
    return {
        address: reason
        for address, seen in workers.items()
        if seen is not None and (reason := _find_difference(seen))
    }


def _find_difference(seen: Mapping[str, Any]) -> str:
    python = ".".join(str(seen["host"]["python"]).split(".")[:2])
    version = dict(seen["packages"]).get("urisk_nb")
    if python != OWN_PYTHON:
        return f"runs Python {python}, and this process runs {OWN_PYTHON}"
    if not version:
        return "has no urisk_nb"
    if version != urisk_nb.__version__:
        return f"has urisk_nb {version}, and this process has {urisk_nb.__version__}"
    return ""


def build_differences_error(differences: Mapping[str, str]) -> WorkersDiffer:
    """Return the error that names the workers."""
    named = [f"the worker {address} {why}" for address, why in differences.items()]
    more = f"; {len(named) - MAX_NAMED} more differ" if len(named) > MAX_NAMED else ""
    is_python = all("Python" in why for why in differences.values())
    fix = (
        f"start the workers with Python {OWN_PYTHON}, or run this notebook with theirs"
        if is_python
        else f'where the workers run: pip install "urisk-nb[scale]=={urisk_nb.__version__}", '
        "then start them again"
    )
    return WorkersDiffer(f"{'; '.join(named[:MAX_NAMED])}{more}.", fix=fix, workers=[*differences])
