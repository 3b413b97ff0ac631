"""The journal: one SQLite file of the user's, with what was asked, answered and made.

It knows bytes, hashes and rows. It does not know what a question, a document or a table is:
`urisk_nb.recording` makes records of these. Records are only added, except by a purge, which
removes whole runs.
"""
