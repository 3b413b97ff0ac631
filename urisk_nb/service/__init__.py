"""The service: the session of this process as an HTTP API for other programs on this machine.

POST /chat and /risk, GET /health, /health/ollama, /health/llm and /metrics. It knows HTTP, and
which status each error has. It does not know how a server is kept or how a table is made: the
manager and the session do. It answers JSON, never HTML: what a model or a document says is data.
FastAPI, uvicorn and prometheus-client are the extra `service`; nothing else imports this package.

Without a token it answers on loopback only, and only to a Host header that names loopback. So no
web page reaches it under a name of its own.
"""

from urisk_nb.service.app import create_app
from urisk_nb.service.serving import serve
from urisk_nb.service.statuses import STATUSES, status_of

__all__ = ["STATUSES", "create_app", "serve", "status_of"]
