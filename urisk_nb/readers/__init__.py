"""
What people hand over, read into the records of `risk.inputs`.

Knows: files, folders, frames, mappings and lists, and the many ways to write a date or a number.
Does not know: what a run does with them; no server, no clock.
Why: each foreign shape is read here and nowhere else. Nothing is guessed: a number is no date,
words are no weight, "01/02/2018" is no ISO date. A name that is not found is answered with the
closest ones.
"""
