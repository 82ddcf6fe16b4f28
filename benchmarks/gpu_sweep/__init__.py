"""The whole sweep on a GPU, Gemma 3 12B's full shape with random weights: who needs how long, and do they agree.

40 prompts of 96 tokens, every layer, 24 strengths: 46,080 passes. Contenders, each for ``last`` and ``all``:
transformers with hooks in batches of 40; the same with its KV cache reused (``last``); our in-process engine, fused
and as it stands; a server with our plugin over HTTP, beside the same server unsteered; a plain server without reuse.
Slow ones go through a seeded tenth of layers × strengths, alike at every layer, and are scaled. On the GPU host, with
vLLM and the project on the path, one command right after the other (``rate`` needs none before it)::

    python3 -m benchmarks.gpu_sweep first     # checkpoint, everything in process; our engine before and after
    python3 -m benchmarks.gpu_sweep second    # a plain server and one with the plugin, in turn
    python3 -m benchmarks.gpu_sweep rate      # whole sweeps over HTTP, by turns steered and not

Checkpoint, vectors, servers and ``results.json`` are gpu_steering's (``STEER_WORK``, ``$OUT``); both servers fit
80 GB with ``STEER_KV_BYTES=10737418240``. Every contender's scores are kept there and compared with the others' and
with its own earlier ones (the noise floor). Here, from each machine's last ``results.json``, none left out::

    python -m benchmarks.gpu_sweep report RESULTS...   # writes reports/benchmarks/gpu_sweep.{json,md}, prints it
"""
