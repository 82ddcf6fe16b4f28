"""Exactness and speed of the steering plugin on a GPU: Gemma 3 12B's full shape, real HTTP servers.

On the GPU host, with vLLM and the project on the path, commands one right after the other::

    python3 -m benchmarks.gpu_steering first    # checkpoint, three servers, exactness, stale graphs, the table
    python3 -m benchmarks.gpu_steering more     # further rounds of that table, if wanted
    python3 -m benchmarks.gpu_steering second   # hooks without compilation, profiles, more rounds of the table

For a machine with too little time for both, one that leaves exactness out and its servers running, for ``gpu_sweep
second``: ``python3 -m benchmarks.gpu_steering contender``.

Results gather in ``results.json`` of the output folder (``$OUT``). Here, from that file::

    python -m benchmarks.gpu_steering report results.json   # writes reports/benchmarks/gpu_steering.{json,md}
"""
