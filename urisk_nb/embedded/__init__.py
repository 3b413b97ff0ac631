"""
The embedded engine: a model file and llama.cpp's own server, for machines without Ollama.

Knows: where the demo model comes from, how the judge is merged, how the server is started.
Does not know: who asks the server what. Of urisk_nb it
imports the errors only.
"""
