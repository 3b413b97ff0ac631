"""
The embedded engine: a model file and llama.cpp's own server, for machines without Ollama.

Knows: where the demo model comes from, what a GGUF file says of itself, how the server is started.
Does not know: who asks the server what. It imports nothing else of urisk_nb.
"""
