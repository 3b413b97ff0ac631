"""
What the servers of one session have to have in common, so that their answers make one table: the
model, its digest where servers tell it, and the way in which it labels.

What was seen holds for the session: a server that comes back with another model stays out.
"""

from __future__ import annotations

from collections.abc import Mapping

from urisk_nb.errors import ModelsDiffer
from urisk_nb.llm.labels import LabelMethod
from urisk_nb.llm.messages import is_same_model

__all__ = ["ModelAgreement"]

SHOWN_DIGITS = 12  # of a digest, as `ollama list` shows it


class ModelAgreement:
    """
    The models of a session's servers, as far as they have been seen.

    Servers are named by their addresses. Each check raises ModelsDiffer where servers differ, with
    what each has, and remembers what agrees.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._digests: dict[str, dict[str, str]] = {}  # by model, then by server
        self._methods: dict[str, dict[str, LabelMethod]] = {}

    def check_names(self, names: Mapping[str, str]) -> None:
        """Check that the servers answer with one model; `names` is what each calls it."""
        seen = {**self._names, **names}
        first = next(iter(seen.values()))
        if not all(is_same_model(first, name) for name in seen.values()):
            raise _build_error(
                f"the servers have different models: {_list_values(seen)}.",
                "serve one model on all of them",
                seen,
            )
        self._names = seen

    def check_digests(self, model: str, digests: Mapping[str, str]) -> None:
        """Check that a model is the same everywhere; an empty digest says nothing."""
        seen = {**self._digests.get(model, {}), **digests}
        told = {url: digest.removeprefix("sha256:") for url, digest in seen.items() if digest}
        if len(set(told.values())) > 1:
            short = {url: digest[:SHOWN_DIGITS] for url, digest in told.items()}
            raise _build_error(
                f"the servers have different models under the name {model!r}: "
                f"{_list_values(short)}.",
                f"run `ollama pull {model}` on each of them, then %urisk_start",
                seen,
            )
        self._digests[model] = seen

    def check_methods(self, model: str, methods: Mapping[str, LabelMethod]) -> None:
        """Check that a model labels in one way everywhere; else its labels are not comparable."""
        seen = {**self._methods.get(model, {}), **methods}
        if len(set(seen.values())) > 1:
            raise _build_error(
                f"{model!r} labels in different ways on the servers: {_list_values(seen)}.",
                "use servers of one kind",
                seen,
            )
        self._methods[model] = seen

    @property
    def models(self) -> tuple[str, ...]:
        """The models that were used, in the order of their first use."""
        return tuple(self._digests)

    @property
    def judges(self) -> tuple[str, ...]:
        """Those that label."""
        return tuple(self._methods)

    def find_digest(self, model: str) -> str:
        """Return the digest of a model; empty where a server does not tell it."""
        digests = set(self._digests.get(model, {}).values())
        return digests.pop() if len(digests) == 1 else ""

    def list_without_digest(self, model: str) -> list[str]:
        """Return the servers that do not tell the model's digest, where there is a model."""
        return [url for url, digest in self._digests.get(model, {}).items() if not digest]


def _build_error(seen: str, remedy: str, servers: Mapping[str, object]) -> ModelsDiffer:
    first_url = next(iter(servers))
    return ModelsDiffer(seen, fix=f"{remedy}; or use one: %urisk_start --url {first_url}")


def _list_values(values: Mapping[str, object]) -> str:
    return ", ".join(f"{url} has {value}" for url, value in values.items())
