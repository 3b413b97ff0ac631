"""Run the questions of a run on a Dask cluster, where each host has its own model server.

The run, its journal and its table stay with the caller. `cluster.ClusterSession` has the interface
of `LLMManager`, so a run on a cluster gives the same table. This package knows questions and
answers. It knows nothing of prices, and it decides nothing about labels.

Only this package imports `distributed` (the extra `scale`).
"""
