"""The risk table: a DataFrame with a report of the run behind it."""
