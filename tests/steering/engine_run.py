"""Runs in a process of its own: one engine, many checks against the reference; prints what it measured as JSON.

vLLM's engine leaves threads, distributed groups and patched globals behind, so that a process holds one engine.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from tests.steering import tiny

HOOKS, SCALES = ("mlp_out", "resid_post"), ("1", "0.5rel")
SELECTORS = ("last", "pos-2", "all", "prompt", "generated")


def specs(layers: int, vectors: int) -> list[str]:
    """Every hook point × scale mode × selector × first, middle, last layer; then several terms at once."""
    number = itertools.count()
    found = [
        f"v{next(number) % vectors}@L{layer}.{hook}@{scale}@{selector}"
        for layer in (0, layers // 2, layers - 1)
        for hook in HOOKS
        for scale in SCALES
        for selector in SELECTORS
    ]
    found += [
        "v0@L0@1@all+v1@L0@0.5rel@last+v2@L1.resid_post@2@generated",
        "v0@L0@1@all.bos+v1@L0@1@all.bos+v0@L0@0.3rel@last",
        "v1@L1@1@prompt+v2@L1@-1@generated",
    ]
    return found


class Engine:
    """An engine in this process and its reference."""

    def __init__(self, folder: Path, layers: int, hidden: int = tiny.HIDDEN, **options: Any) -> None:
        tiny.set_environment()
        from vllm import LLM

        from servers.steering.offline import OfflineSteering, offline_args

        arguments = {
            "skip_tokenizer_init": True,
            "dtype": "float32",
            "max_model_len": 512,
            "max_num_seqs": 64,
            "block_size": 32,
            "enforce_eager": True,
            "max_logprobs": 400,
            "disable_log_stats": False,
            **offline_args(lanes=2),
            **tiny.GPU_MEMORY,
            **options,
        }
        self.llm: Any = LLM(str(folder), **arguments)
        self.steering = OfflineSteering(self.llm, bos_id=tiny.BOS)
        self.vectors = [tiny.vector(f"v{i}", i, layer=i % layers, hidden=hidden) for i in range(6)]
        for vector in self.vectors:
            self.steering.load(vector)
        self.reference = tiny.Reference(folder, self.vectors)
        self.layers = layers

    def ask(
        self,
        requests: list[tuple[list[int], str]],
        tokens: int = 4,
        lora_request: Any = None,
        **sampling: Any,
    ) -> list[Any]:
        """Run requests in one call; ``lora_request`` is vLLM's, one for each."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=0,
                max_tokens=tokens,
                logprobs=10,
                ignore_eos=True,
                extra_args=self.steering.extra_args(spec),
                **sampling,
            )
            for _, spec in requests
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
        outputs: list[Any] = self.llm.generate(prompts, params, use_tqdm=False, lora_request=lora_request)
        return outputs

    def errors(self, requests: list[tuple[list[int], str]], outputs: list[Any]) -> float:
        """Return the largest difference to the reference over all steps."""
        worst = 0.0
        for (prompt, spec), output in zip(requests, outputs, strict=True):
            out = output.outputs[0]
            want = self.reference.logprobs([*prompt, *out.token_ids[:-1]], len(prompt), spec)
            for i, step in enumerate(out.logprobs):
                for token, got in step.items():
                    worst = max(worst, abs(got.logprob - float(want[len(prompt) - 1 + i, token])))
        return worst

    def check(self, requests: list[tuple[list[int], str]], tokens: int = 4) -> float:
        """Run requests and return the largest difference to the reference."""
        return self.errors(requests, self.ask(requests, tokens))


def mixed(engine: Engine, count: int, seed: int, lengths: tuple[int, ...]) -> list[tuple[list[int], str]]:
    """Return requests of all kinds: each its own spec, one in five plain."""
    every = specs(engine.layers, len(engine.vectors))
    found = []
    for i in range(count):
        spec = "base" if i % 5 == 0 else every[(seed * 31 + i * 7) % len(every)]
        length = lengths[(i + seed) % len(lengths)]
        if "pos-2" in spec and length < 2:
            length = 2
        found.append((tiny.prompt(seed * 1000 + i, length), spec))
    return found


LENGTHS = (1, 2, 5, 31, 32, 33, 63, 64, 65, 100)


def exactness(engine: Engine) -> dict[str, float]:
    """Every spec over lengths around the block's, cold and then warm; and how far steering moves the logits."""
    every = specs(engine.layers, len(engine.vectors))
    found = {}
    requests = [
        (tiny.prompt(n, n), s) for s in ["base", *every] for n in LENGTHS if n > 1 or "pos-2" not in s
    ]
    found["cold"] = engine.check(requests)
    found["warm"] = engine.check(requests)
    found["shuffled"] = engine.check(requests[::3][::-1])
    plain = engine.reference.logits(tiny.prompt(65, 65), 65)[-1]
    moved = engine.reference.logits(tiny.prompt(65, 65), 65, every[0])[-1]
    found["moved"] = float((plain - moved).abs().max())
    return found


def recomputed(engine: Engine, requests: list[tuple[list[int], str]]) -> list[int]:
    """Return how many prompt tokens of each request, one after another, did not come from the cache, as vLLM says."""
    outputs = [engine.ask([request], tokens=1)[0] for request in requests]
    return [len(prompt) - out.num_cached_tokens for (prompt, _), out in zip(requests, outputs, strict=True)]


def _missed(engine: Engine) -> float:
    """Return how many prompt tokens did not come from the cache so far, by vLLM's metrics."""
    counts = {m.name: m.value for m in engine.llm.get_metrics() if m.name.startswith("vllm:prefix_cache_")}
    return float(counts["vllm:prefix_cache_queries"] - counts["vllm:prefix_cache_hits"])


def sharing(engine: Engine, block: int = 32) -> dict[str, float]:
    """200 specs over one prompt of several blocks: what each request recomputes; then exactness of all at once."""
    prompt = tiny.prompt(7, 3 * block + 4)
    engine.ask([(prompt, "base")], tokens=1)
    found: dict[str, float] = {}
    for selector in ("last", "pos-5", "pos-40", "all"):
        requests = [
            (
                prompt,
                f"v{i % 6}@L{i % 4}.{HOOKS[i // 4 % 2]}@{(i + 1) / 200:g}{'rel' if i % 3 else ''}@{selector}",
            )
            for i in range(200)
        ]
        before = _missed(engine)
        counts = recomputed(engine, requests)
        found[f"recomputed {selector}"] = sum(counts)
        found[f"recomputed {selector}, by the metrics"] = _missed(engine) - before
        found[f"most recomputed {selector}"], found[f"least recomputed {selector}"] = max(counts), min(counts)
        found[f"error {selector}"] = engine.check(requests, tokens=1)
    found["length"] = len(prompt)
    return found


def main() -> None:
    """Run the checks that are named on the command line."""
    family, folder, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    layers = {"llama": 4, "gemma3": 4, "gemma3_multimodal": 4, "qwen2": 3, "qwen3": 3}[family]
    options: dict[str, Any] = {"language_model_only": True} if "multimodal" in family else {}
    if "compiled" in what:
        options["enforce_eager"] = False
    if "chunked" in what:
        options |= {"max_num_batched_tokens": 48, "max_model_len": 256, "max_num_seqs": 40}
    if "preempting" in what:
        # Room for about nine requests of 5 blocks each.
        options |= {
            "num_gpu_blocks_override": 96 if family == "gemma3" else 48,
            "max_num_seqs": 32,
            "max_model_len": 256,
        }
    if "uncached" in what:
        options["enable_prefix_caching"] = False
    engine = Engine(folder, layers, **options)
    found: dict[str, float] = {}
    if "chunked" in what or "preempting" in what or "uncached" in what:
        for seed in range(2):
            requests = mixed(engine, 40, seed, (1, 31, 32, 33, 96, 100, 140))
            found[f"mixed {seed}"] = engine.check(requests, tokens=16 if "preempting" in what else 4)
        found["preemptions"] = preemptions(engine)
    elif "sharing" in what:
        found |= sharing(engine)
    elif "failing" in what:
        found |= failing(engine)
    else:
        found |= exactness(engine)
        for seed in range(2):
            found[f"mixed {seed}"] = engine.check(mixed(engine, 48, seed, LENGTHS))
    print("FOUND " + json.dumps(found), flush=True)


def failing(engine: Engine) -> dict[str, float]:
    """Let one step fail to bring a vector to the device: how many of the requests were answered then and after."""
    from servers.steering.buffers import SteeringBuffers

    requests = mixed(engine, 8, 0, LENGTHS)
    found = {"before": engine.check(requests)}
    write_rows, failed = SteeringBuffers._write_rows, [0]

    def once(self: SteeringBuffers, new_rows: Any) -> None:
        if new_rows and not failed[0]:
            failed[0] = 1
            raise RuntimeError("injected")
        write_rows(self, new_rows)

    SteeringBuffers._write_rows = once  # type: ignore[method-assign]
    found["answered"] = 0.0
    for seed in range(1, 4):
        try:
            found["answered"] += len(engine.ask(mixed(engine, 8, seed, LENGTHS)))
        except RuntimeError as e:
            print(f"refused: {e}", file=sys.stderr)
    found["steps that failed"] = float(failed[0])
    return found


def preemptions(engine: Engine) -> float:
    """Return vLLM's own count of preemptions."""
    return float(sum(m.value for m in engine.llm.get_metrics() if m.name == "vllm:num_preemptions"))


if __name__ == "__main__":
    main()
