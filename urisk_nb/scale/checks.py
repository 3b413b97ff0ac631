"""Check a client and its workers before the first question."""

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
MAX_TEXT = 80  # characters of a given text in a message
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def check_client(client: object) -> None:
    """
    Check the argument `client`, without computing or sending anything.

    Raises
    ------
    PackageMissing
        The extra `scale` is not installed.
    InputError
        It is not a Dask client, or it is asynchronous or closed.
    """
    _require_distributed()
    from distributed import Client

    if not isinstance(client, Client):
        raise InputError(
            f"client is {_describe_other(client)}, not a Dask client.",
            fix="create a Dask client: from distributed import Client; "
            f"client = Client({_name_scheduler(client)})",
        )
    if client.asynchronous:
        raise InputError(
            f"client is asynchronous ({describe_client(client)}).",
            fix="use a blocking client: client = Client(ADDRESS), without asynchronous=True",
        )
    if client.status not in ("running", "connecting"):
        raise InputError(
            f"client is {client.status} ({describe_client(client)}).",
            fix="connect again: client = Client(ADDRESS)",
        )


def _describe_other(seen: object) -> str:
    return f"the text {cut(seen, MAX_TEXT)!r}" if isinstance(seen, str) else describe_type(seen)


def _name_scheduler(seen: object) -> str:
    """Return the argument of Client: what was given, if it leads to a scheduler."""
    if hasattr(seen, "scheduler_address"):
        return "cluster"
    return repr(seen) if isinstance(seen, str) and "://" in seen else "ADDRESS"


@contextlib.contextmanager
def open_client(address: str) -> Iterator[Client]:
    """
    Yield a client of the scheduler at an address, and close it at the end.

    Raises
    ------
    PackageMissing
        The extra `scale` is not installed.
    InputError
        It is not an address, or has no port.
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
            f"no Dask scheduler answers at {address!r} ({type(exc).__name__}).",
            fix="check the address (such as tcp://host:8786), and that `dask scheduler` runs there",
        ) from exc
    try:
        yield client
    finally:
        client.close()  # type: ignore[no-untyped-call]


def _check_address(address: str) -> None:
    """Refuse an address that Dask refuses, before Dask starts a client, which ends late."""
    from distributed.comm.addressing import get_address_host_port

    try:
        get_address_host_port(address)
    except ValueError as exc:
        raise InputError(
            f"{address!r} is not the address of a scheduler: {exc}.",
            fix="give its host and port, such as tcp://host:8786",
        ) from exc


def _require_distributed() -> None:
    try:
        import distributed  # noqa: F401  checks that it is installed
    except ImportError as exc:
        raise PackageMissing(
            "a run on a Dask cluster needs the package distributed, which is not installed.",
            fix='pip install "urisk-nb[scale]"',
        ) from exc


def describe_client(client: Client) -> str:
    """Return the address of the scheduler, if it is known."""
    scheduler = client.scheduler
    return "no scheduler" if scheduler is None else str(getattr(scheduler, "address", scheduler))


def find_differences(workers: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """
    Return the workers whose versions differ from this process, each with the reason.

    Parameters
    ----------
    workers
        The entry `workers` of `Client.get_versions(packages=["urisk_nb"])`.
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
        return f"runs Python {python}, but this process runs {OWN_PYTHON}"
    if not version:
        return "has no urisk_nb"
    if version != urisk_nb.__version__:
        return f"has urisk_nb {version}, but this process has {urisk_nb.__version__}"
    return ""


def build_differences_error(differences: Mapping[str, str]) -> WorkersDiffer:
    """Return the error that names the workers."""
    named = [f"the worker {address} {why}" for address, why in differences.items()]
    more = f"; {len(named) - MAX_NAMED} more differ" if len(named) > MAX_NAMED else ""
    is_python = all("Python" in why for why in differences.values())
    fix = (
        f"start the workers with Python {OWN_PYTHON}, or run this notebook with their Python"
        if is_python
        else f'on the workers: pip install "urisk-nb[scale]=={urisk_nb.__version__}", '
        "then restart them"
    )
    return WorkersDiffer(f"{'; '.join(named[:MAX_NAMED])}{more}.", fix=fix, workers=[*differences])
