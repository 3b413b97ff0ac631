"""A Dask cluster answers in place of one session: each host asks its own model server.

The run, its journal and its table stay with the caller. `cluster.ClusterSession` is to a run what
`LLMManager` is to it, so a run on a cluster gives the same table. It knows questions and answers.
It knows nothing of prices and documents, and it decides nothing about labels.

Only this part imports `distributed`, which is the extra `scale`.
"""
