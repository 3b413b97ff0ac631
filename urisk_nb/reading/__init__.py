"""
Read the evidence of a run, in this process or on the other cores, and cache what was read.

Knows the file readers, the selections of the risk core, and the worker pool. Does not know servers.
"""
