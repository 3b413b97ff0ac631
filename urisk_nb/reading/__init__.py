"""
Who reads the evidence of a run: this process, or workers on the other cores; and what was read.

Knows the files' readers, the selections of the risk core, and the pool. Does not know a server.
"""
