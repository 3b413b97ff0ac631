"""
Processes that read beside this one, on the cores that the user may use.

Knows how many there may be, how they are started, and that none outlives its caller. Does not know
what they are asked to do: a job names a function of the package that takes bytes and returns bytes.
"""
