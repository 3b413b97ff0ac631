"""The renderer: tables, answers and progress, as HTML and as text.

Knows what a row, a warning and a message are. Does not know runs, servers or IPython's magics. All
text that comes from outside is escaped.
"""
