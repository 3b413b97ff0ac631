"""What a run is made of, as records of the journal: its inputs, its replies, its end.

It knows the risk core's records and the journal's rows, and turns one into the other and back. It
does not know servers, and makes no table.
"""
