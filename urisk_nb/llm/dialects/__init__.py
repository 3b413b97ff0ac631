"""
The wires of model servers: native Ollama, OpenAI-compatible, System One.

Pure encode and decode: records in, bytes out; bytes in, records out. Nothing here opens a
connection.
"""
