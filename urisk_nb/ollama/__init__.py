"""Everything Ollama: the protocol, the client, the server's process, and the manager that keeps one session for the kernel's life.

Knows HTTP, processes and what the server says in each case. Has never heard of risk: a caller hands it messages, or the bytes of a
question, and gets text with its timing.
"""
