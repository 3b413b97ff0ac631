"""Make text safe to show: write out what is invisible or reorders a line, escape markup."""

from __future__ import annotations

import html

from urisk_nb.terminal_text import one_line, visible

__all__ = ["escape_html", "one_line", "visible"]


def escape_html(value: object) -> str:
    """Return the value as text that is safe between HTML tags and inside attributes."""
    return html.escape(visible(str(value)), quote=True)
