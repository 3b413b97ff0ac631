"""A question and its answer in a notebook: what is sent beside the question, and what comes of it.

It knows messages, values of the user's and the records of answers. It does not know magics, and it
shows nothing. Everything that goes to a model passes through here, and nothing that a model says is
evaluated.
"""
