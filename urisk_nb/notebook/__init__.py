"""The notebook's face: magics that parse and hand over, and the rendering of what comes back.

Knows IPython and HTML. Does not know how an answer or a table is made. Everything shown is escaped: model text and evidence are hostile.
"""
