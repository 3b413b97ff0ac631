"""
One session with a model server: messages, dialects, calls.

Knows: what is asked, how each kind of server is spoken to, what its replies mean.
Does not know: how a server is started, what a risk is.
"""
