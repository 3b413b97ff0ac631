"""A judge as part of a record, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from urisk_nb.llm.labels import Judge
    from urisk_nb.llm.written_labels import SchemaSetting

__all__ = ["decode_judge", "encode_judge"]


def encode_judge(judge: Judge) -> dict[str, Any]:
    """Return who labeled and how it was asked, JSON-able."""
    setting = judge.setting
    return {
        "model": judge.model,
        "digest": judge.digest,
        "method": str(judge.method),
        "setting": None
        if setting is None
        else {
            "choices": list(map(str, setting.choices)),
            "think": str(setting.think),
            "is_known": setting.is_known,
            "is_ignored": setting.is_ignored,
            "reason": setting.reason,
        },
    }


def decode_judge(content: Mapping[str, Any]) -> Judge:
    """Return the judge again, as it was at the end of the run."""
    from urisk_nb.llm.labels import Judge, LabelMethod

    return Judge(
        model=content["model"],
        method=LabelMethod(content["method"]),
        digest=content["digest"],
        setting=None if content["setting"] is None else _decode_setting(content["setting"]),
    )


def _decode_setting(content: Mapping[str, Any]) -> SchemaSetting:
    from urisk_nb.llm.messages import Think
    from urisk_nb.llm.written_labels import SchemaSetting

    setting = SchemaSetting(tuple(map(Think, content["choices"])))
    setting.think = Think(content["think"])
    setting.is_known, setting.is_ignored = content["is_known"], content["is_ignored"]
    setting.reason = content["reason"]
    return setting
