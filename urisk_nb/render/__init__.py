"""
The renderer: tables, answers and progress, as HTML and as text.

Knows rows, warnings, messages and answers. Does not know runs, servers or magics. Text from a model
or from evidence is escaped and its invisible characters are made visible; it is never handed to
`IPython.display.Markdown` or `HTML`, which open files and addresses and run what is injected. The
Markdown of an answer is laid out by `answer_markdown`, which keeps a short list of tags.
"""
