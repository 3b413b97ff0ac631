"""
Worker processes on the cores of this machine.

Knows how many to start, how to start them, and that none outlives its caller. Does not know what
they compute: a job names a function of the package that takes and returns bytes.
"""
