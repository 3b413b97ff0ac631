"""The HTTP status of each error."""

from __future__ import annotations

from urisk_nb import errors
from urisk_nb.errors import UriskError

__all__ = ["STATUSES", "status_of"]


# The HTTP status of each error. A subclass counts as its nearest base that stands here.
STATUSES: dict[type[UriskError], int] = {
    errors.UriskError: 500,
    errors.InputError: 422,
    errors.NotInitialized: 503,
    errors.FetchFailed: 502,
    errors.RunNotFound: 404,
    # No server to ask just now: not installed, not running, starting, lost, busy, circuit open
    errors.ServerError: 503,
    errors.NotSupportedByServer: 501,
    errors.StreamInterrupted: 502,
    errors.RunnerCrashed: 502,
    errors.ServerInternalError: 502,
    errors.ProtocolError: 502,
    errors.ServerTimeout: 504,
    errors.ServerHung: 504,
    errors.OutOfMemory: 507,
    errors.BadRequest: 422,
    errors.ModelError: 502,
    errors.ModelNotFound: 404,
    errors.ModelNameInvalid: 422,
    errors.ModelUnsuitable: 422,
    errors.ContextExceeded: 422,
    errors.DiskFull: 507,
    errors.CloudModelBlocked: 403,
}


def status_of(error: UriskError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUSES[base] for base in type(error).__mro__ if base in STATUSES)
