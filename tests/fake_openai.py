"""A small OpenAI-compatible server for tests, as vLLM or LM Studio look to a client."""

import asyncio
import contextlib
import json

from fake_ollama import decisions

ENDS = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)


class FakeOpenAI:
    """
    Answers `/v1/models`, `/v1/chat/completions`, where a model decides `/v1/systemone`, and 404
    for the rest.

    Parameters
    ----------
    models
        Names of its models.
    prefix
        A path before `/v1`, as behind a proxy.
    answer
        Texts of an answer; `{schema}` questions get the first enumerated value of each property.
    owner, window, aliases
        What the list of models says.
    decides
        For each of its decision models, the probabilities of options by question, as JSON.
    status, error
        A refusal in place of an answer.
    """

    def __init__(
        self,
        models=("some-7b",),
        *,
        prefix="",
        answer=("Hello", " world"),
        owner="vllm",
        aliases=(),
        window=8192,
        decides=None,
        status=200,
        error="",
    ):
        self.models, self.prefix, self.answer = models, prefix, answer
        self.aliases = list(aliases)
        self.owner, self.window, self.status, self.error = owner, window, status, error
        self.decides = decides or {}
        self.requests = []
        self.aborted = 0
        self.token_s = 0.0
        self._tasks = set()

    async def start(self, port=0):
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}{self.prefix}"
        return self

    async def stop(self):
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(*ENDS):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.decode().split(" ", 2)
                length = next(
                    (
                        int(line[15:])
                        for line in head.decode().lower().split("\r\n")
                        if line.startswith("content-length:")
                    ),
                    0,
                )
                body = json.loads(await reader.readexactly(length)) if length else None
                self.requests.append((method, path, body))
                await self._reply(writer, path, body)
        writer.close()

    async def _reply(self, writer, path, body):
        if path == f"{self.prefix}/v1/models":
            entries = [
                {
                    "id": name,
                    "object": "model",
                    "owned_by": self.owner,
                    "max_model_len": self.window,
                    **({"aliases": self.aliases} if self.aliases else {}),
                }
                for name in self.models
            ]
            self._send(writer, 200, {"object": "list", "data": entries})
        elif path == f"{self.prefix}/v1/systemone" and self.decides:
            self._decide(writer, body)
        elif path != f"{self.prefix}/v1/chat/completions":
            self._send(writer, 404, {"detail": "Not Found"})
        elif self.status != 200:
            self._send(writer, self.status, {"error": {"message": self.error, "type": "x"}})
        elif body["model"] not in self.models:
            self._send(
                writer,
                404,
                {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}},
            )
        else:
            await self._stream(writer, body)

    def _decide(self, writer, body):
        if (said := self.decides.get(body["model"])) is None:
            error = {"code": 501, "message": "This model is not a decision model"}
            self._send(writer, 501, {"error": error})
        else:
            asked = decisions.read(json.dumps(body).encode())
            self._send(writer, 200, decisions.answer(asked, said))

    @staticmethod
    def _send(writer, status, content, server="uvicorn"):
        data = json.dumps(content).encode()
        head = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Server: {server}"]
        head += [f"Content-Length: {len(data)}", "", ""]
        writer.write("\r\n".join(head).encode() + data)

    async def _stream(self, writer, body):
        head = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Server: uvicorn"]
        writer.write("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())
        texts = self._texts(body)
        deltas = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
        events = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
        ]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if body.get("stream_options", {}).get("include_usage"):
            events.append(
                {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(texts)}}
            )
        try:
            for event in [*map(json.dumps, events), "[DONE]"]:
                data = f"data: {event}\n\n".encode()
                writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                await writer.drain()
                await asyncio.sleep(self.token_s)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except ConnectionError:
            self.aborted += 1
            raise

    def _texts(self, body):
        wrapped = body.get("response_format")
        if not wrapped:
            return list(self.answer)
        properties = wrapped["json_schema"]["schema"].get("properties", {})
        return [
            json.dumps(
                {name: values["enum"][0] for name, values in properties.items()},
                separators=(",", ":"),
            )
        ]
