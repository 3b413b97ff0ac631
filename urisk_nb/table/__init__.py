"""
The risk table as the user has it: a DataFrame with its report, which shows itself.

Above the core, which makes plain frames, and above the renderer, which shows them.
"""
