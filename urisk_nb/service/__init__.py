"""The service: the session of this process over HTTP, for programs that are no notebook.

POST /chat and /risk, GET /health, /health/ollama, /health/llm and /metrics. Knows HTTP, and which
status each error of ours has. Does not know how a server is kept or a table made: that is the
manager's and the session's. Answers JSON, never HTML: what a model or a document says is data.
Optional: FastAPI, uvicorn and prometheus-client are the extra `service`, and only who serves
imports this.

Without a token it answers on loopback alone, and only to callers that name it as loopback, so that
no web page reaches it under a name of its own.
"""

from urisk_nb.service.app import create_app
from urisk_nb.service.serving import serve
from urisk_nb.service.statuses import STATUSES, status_of

__all__ = ["STATUSES", "create_app", "serve", "status_of"]
