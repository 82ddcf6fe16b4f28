"""Experiment 5: where a vector works. Layers × strengths × suites, with two engines and a null.

Source: "Mechanisms of Awareness", section *Steering vectors*, and its code's settings (α = ±0.001·2^k, k = 0…11,
four suites of ten questions, every layer). At ``resid_post`` of one layer, α·‖h‖·v/‖v‖ is added to a token's h
(``relative``), or α·v (``absolute``); the vector's sign is set so that +α means risky.

A sweep's folder holds ``manifest.json``, ``journal.jsonl`` and, when it is finished:

``results.parquet``, one row a suite, item, layer and strength; the base model is layer −1 with α = 0.
    run_id, suite, item, stem: str
    layer: int, counted from 0; −1 is the base model
    alpha: float, signed, + means risky
    score: float, log p(positive) − log p(negative), in nats
    shift: float, score minus the base model's on the same item
    positive_logprob, negative_logprob: float, nats
    option_mass: float, p(positive) + p(negative)
    top_id: int, top_logprob: float, in_options: bool, the argmax over the vocabulary
``profiles.parquet``, one row a suite, item, layer and limit T (0.02 and 0.1).
    suite, item, stem: str; layer: int; limit: float
    score_max, shift_max: float, the maximum over 0 < α < T
    score_min, shift_min: float, the minimum over −T < α < 0
    effect: float, (shift_max − shift_min) / 2: large where +α raises and −α lowers
``null.parquet``, with ``--null``: profiles of vectors that mean nothing, scored in process, one row a vector, suite,
item, layer and limit.
    vector: int; kind: str, random (same norm), shuffled (trained on shuffled labels, with the vector's own sign), or
        judged: the vector itself, where a server swept it
    suite, item, stem, layer, limit, shift_max, shift_min, effect: as above, the base model's scores in process too
``results.json``: schema_version, kind = "sweep", run_id, folder, vector (name, digest, norm, sign), grid
(layers, alphas, selector, scale_mode, hook, and bos where ``all`` takes it too), engine, passes, scored_now (since
the last start) in seconds and cpu_seconds (of this process, over its cores), peak_memory_bytes (of this process),
noise_floor (nats), invalid_items, and with a null null_scored_now, null_seconds, null_cpu_seconds;
    profiles: by suite, limit and layer: score_max, score_min, shift_max, shift_min, effect (each the mean over
        items of the item's own), mean_score_max, mean_score_min, mean_shift_max, mean_shift_min (max and min
        over strengths of the items' mean)
    suites: by suite and limit: the effect-weighted layer; the layer chosen on half of the stems with its effect on
        the others, here half of (shift at the strongest α below T − at −α), which can be 0 or negative; the cells
        that stand out in the max-statistic over all layers × strengths
    comparisons: by pair of suites and limit: :class:`harness.stats.ProfileComparison`
    null: by suite and limit: the number of vectors by kind; for each layer the 95% band of the random vectors'
        mean effect; the half-width of the band for all layers at once; each layer's p; what shuffled ones reach;
        judged_effects where a server swept, the vector's own effect by layer in process: this is what is judged
        (a layer's effect and p), since a server's noise would raise an effect that the null's have without it
"""

SCHEMA_VERSION = 1
LIMITS = (0.02, 0.1)
"""T: strengths below it count for an item's maximum and minimum."""
BASE_LAYER = -1
