"""
Everything about risk: inputs as records, metrics, evidence, questions, scores.

Knows: tickers, prices, the user's documents, how each number and each question is made.
Does not know: servers, files, clocks, threads, notebooks; it is pure and synchronous.
Why: the same code must give the same table live, from recorded replies and in a test, and every
figure must be defensible by reading it here.
"""
