"""Steering vectors per request on a stock vLLM: exact, with its compiled graphs and its prefix cache.

The path of a request, and where to read it:

``middleware``, ``admission``, ``limits``, ``registry``
    API process. A model name or ``vllm_xargs`` becomes a :class:`~servers.steering.resolved.ResolvedSpec`,
    or a 4xx.
``rows``
    Which token gets what: one pure function for keys and runners.
``keys``
    Engine core. Prefix-cache keys of steered blocks.
``runner_v1``, ``runner_v2``
    Worker. What a step schedules, by version of vLLM's model runner.
``steps``, ``plan``, ``buffers``, ``hooks``
    Worker. Persistent buffers, written before a step and read inside the compiled graph.
``plugin``, ``support``, ``status``, ``selfcheck``, ``worker``
    How it gets in, and the refusals where it would not be exact.
"""

from servers.steering.launch import LaunchArgs, launch_args

__all__ = ["LaunchArgs", "launch_args"]
