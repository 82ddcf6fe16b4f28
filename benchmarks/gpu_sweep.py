"""The whole sweep on a GPU, Gemma 3 12B's full shape with random weights: who needs how long, and do they agree.

40 prompts of 96 tokens, every layer, 24 strengths: 46,080 passes. Contenders, each for ``last`` and ``all``:
transformers with hooks in batches of 40; the same with its KV cache reused (``last``); our in-process engine;
a server with our plugin over HTTP, beside the same server unsteered; a plain server without reuse.

    python3 -m benchmarks.gpu_steering prepare                  # checkpoint and vectors
    python3 -m benchmarks.gpu_sweep process last ours hooks cached
    python3 -m benchmarks.gpu_sweep process all ours hooks --part 0.1   # a seeded tenth, scaled and marked so
    python3 -m benchmarks.gpu_sweep start                       # a plain server and one with the plugin
    python3 -m benchmarks.gpu_sweep http last                   # each beside its anchor, in turn
    python3 -m benchmarks.gpu_sweep http all --part 0.1
    python3 -m benchmarks.gpu_sweep table

Each ``process`` command has our engine before and after the others as its anchor, each ``http`` command the unsteered
server. Every contender's scores are kept and compared with the others' and with its own earlier ones (the noise
floor). Checkpoint, servers and results are gpu_steering's (``STEER_WORK``, ``$OUT``).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_steering.cases import random_prompt
from benchmarks.gpu_steering.places import MODEL, NAME, VECTORS, WORK, changing, read, shape

PROMPTS, LENGTH = 40, 96
ALPHAS = [sign * 0.001 * 2**k for sign in (-1, 1) for k in range(12)]
WANTED = [1000, 2000]
VECTOR = "v0"
SERVERS = ["plain", "plugin"]
Key = tuple[int, int, float]
"""Prompt, layer, α."""
Scores = dict[Key, float]


def prompts() -> list[list[int]]:
    """Return the sweep's prompts: random tokens after a BOS."""
    rng = random.Random(11)
    return [random_prompt(rng, LENGTH) for _ in range(PROMPTS)]


def cells(part: float) -> list[tuple[int, float]]:
    """Return layers × strengths, or a seeded part of them; all prompts go through each."""
    every = [(layer, alpha) for layer in range(shape()["num_hidden_layers"]) for alpha in ALPHAS]
    if part >= 1:
        return every
    return sorted(random.Random(5).sample(every, max(1, round(part * len(every)))))


def _wanted() -> list[int]:
    return [token % shape()["vocab_size"] for token in WANTED]


# --- in process ---------------------------------------------------------------------------------------


class Process:
    """The model in this process, and ways to sweep it."""

    def __init__(self, selector: str, compiled: bool) -> None:
        import torch
        import transformers

        from harness.vectors import read_vector

        self.torch, self.selector, self.compiled = torch, selector, compiled
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            MODEL, dtype=dtype, device_map=self.device
        ).eval()
        self.vector = read_vector(VECTORS / VECTOR)
        self.prompts = prompts()

    def timed(self, run: Callable[[], Scores]) -> tuple[float, Scores, float]:
        """Return seconds, scores and peak memory in bytes of a run."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()
            self.torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        scores = run()
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return seconds, scores, self.torch.cuda.max_memory_allocated() if self.device == "cuda" else 0.0

    def ours(self, grid: list[tuple[int, float]]) -> Scores:
        """Sweep with our engine; prompts' keys and values are part of the time."""
        from harness.reference.sweep import Strengths, Sweeper

        layers = tuple(range(shape()["num_hidden_layers"]))
        tokens = 65_536 if self.device == "cuda" else 8_192
        sweeper: Any = Sweeper(
            self.model,
            self.prompts,
            [_wanted()] * PROMPTS,
            self.selector,
            bos_id=2,
            max_tokens=tokens,  # type: ignore[arg-type]
        )
        if self.compiled:
            for name in ("_rows_layer", "_layer"):
                setattr(sweeper, name, self.torch.compile(getattr(sweeper, name), dynamic=True))
        keep = set(grid)
        found: Scores = {}
        by_layer: dict[tuple[int, ...], tuple[float, ...]] = {layers: tuple(ALPHAS)}
        if len(keep) < len(layers) * len(ALPHAS) and self.selector == "all":
            by_layer = {(layer,): tuple(a for i, a in grid if i == layer) for layer, _ in grid}
        for own, alphas in by_layer.items():
            strengths = Strengths(own, alphas, self.selector, "relative")  # type: ignore[arg-type]
            for block in sweeper.sweep(self.vector.values, strengths):
                apart = block.logits[..., 0] - block.logits[..., 1]
                for row, index in enumerate(block.prompts):
                    for column, layer in enumerate(block.layers):
                        for place, alpha in enumerate(alphas[block.scales]):
                            if (layer, alpha) in keep:
                                found[index, layer, alpha] = float(apart[row, column, place])
        return found

    def _added(self, layer: int, alpha: float) -> Any:
        """Hook a layer: α·‖h‖·v/‖v‖ at the last token, or at all but the BOS."""
        torch = self.torch
        values = torch.tensor(self.vector.values, device=self.device)
        unit = values / values.norm()

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            h = output[0] if isinstance(output, tuple) else output
            total = h.clone()
            first = -1 if self.selector == "last" or h.shape[1] == 1 else 1
            part = h[:, first:].float()
            total[:, first:] = (part + alpha * part.norm(dim=-1, keepdim=True) * unit).to(h.dtype)
            return (total, *output[1:]) if isinstance(output, tuple) else total

        return self.model.model.layers[layer].register_forward_hook(hook)

    def hooks(self, grid: list[tuple[int, float]]) -> Scores:
        """Sweep with transformers and hooks: the 40 prompts as a batch, once for each cell."""
        torch = self.torch
        ids = torch.tensor(self.prompts, device=self.device)
        found: Scores = {}
        with torch.inference_mode():
            for layer, alpha in grid:
                handle = self._added(layer, alpha)
                logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
                handle.remove()
                found |= self._read(logits, layer, alpha)
        return found

    def cached(self, grid: list[tuple[int, float]]) -> Scores:
        """The same with each prompt's KV cache computed once: one token a pass (``last``)."""
        import transformers

        torch = self.torch
        ids = torch.tensor(self.prompts, device=self.device)
        found: Scores = {}
        with torch.inference_mode():
            # Whole keys and values in every layer: one that keeps its window alone can't be cut back.
            cache = transformers.DynamicCache()
            self.model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
            for layer, alpha in grid:
                handle = self._added(layer, alpha)
                out = self.model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
                handle.remove()
                cache.crop(-1)
                found |= self._read(out.logits[:, -1].float(), layer, alpha)
        return found

    def _read(self, logits: Any, layer: int, alpha: float) -> Scores:
        first, second = _wanted()
        apart = (logits.log_softmax(-1)[:, first] - logits.log_softmax(-1)[:, second]).tolist()
        return {(row, layer, alpha): value for row, value in enumerate(apart)}


def process(args: argparse.Namespace) -> None:
    """Measure in-process contenders, ours before and after them as the anchor."""
    runner = Process(args.selector, args.compiled)
    ways = {"ours": runner.ours, "hooks": runner.hooks, "cached": runner.cached}
    if "cached" in args.contenders and args.selector == "all":
        raise SystemExit("cached: with 'all' no keys and values can be kept")
    some = cells(1 if args.part >= 1 else args.part)
    runner.timed(lambda: ways["ours"](some[:4] if args.selector == "all" else some))
    for name in ["ours", *(c for c in args.contenders if c != "ours"), "ours"]:
        grid = some if name != "ours" or args.selector == "all" else cells(1)
        seconds, scores, memory = runner.timed(lambda way=ways[name], grid=grid: way(grid))  # type: ignore[misc]
        _keep(args, f"{name} in process", seconds, scores, memory)


# --- over HTTP ----------------------------------------------------------------------------------------


def _bodies(model: str, asked: list[list[int]]) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": asked,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 2,
        "logprob_token_ids": _wanted(),
        "return_tokens_as_token_ids": True,
    }


def _ask(where: str, work: list[tuple[int, float, dict[str, Any]]]) -> Scores:
    from benchmarks.gpu_steering.client import ask_all

    first, second = _wanted()
    found: Scores = {}
    answers = ask_all(where, [body for _, _, body in work])
    for (layer, alpha, _), answer in zip(work, answers, strict=True):
        for choice in answer["choices"]:
            top = choice["logprobs"]["top_logprobs"][0]
            found[choice["index"], layer, alpha] = top[f"token_id:{first}"] - top[f"token_id:{second}"]
    return found


def http(args: argparse.Namespace) -> None:
    """Measure the steered server, itself unsteered on the same prompts, and a plain one without reuse, in turn."""
    grid, asked = cells(args.part), prompts()
    rng = random.Random(time.time_ns())
    steered = [
        (layer, alpha, _bodies(f"{VECTOR}@L{layer}.resid_post@{alpha:.3f}rel@{args.selector}", asked))
        for layer, alpha in grid
    ]
    unsteered = [(layer, alpha, _bodies(NAME, asked)) for layer, alpha in grid]

    def fresh() -> Iterator[tuple[int, float, dict[str, Any]]]:
        for layer, alpha in grid:
            new = [random_prompt(rng, LENGTH) for _ in range(PROMPTS)]
            yield layer, alpha, _bodies(NAME, new)

    for where in ("plugin", "plain"):
        _ask(where, [(0, 0.0, _bodies(NAME, asked))])
    for _ in range(args.rounds):
        for name, where, work in (
            ("unsteered server, same prompts", "plugin", unsteered),
            ("ours over HTTP", "plugin", steered),
            ("unsteered server, same prompts", "plugin", unsteered),
            ("plain vLLM, no reuse", "plain", list(fresh())),
        ):
            began = time.perf_counter()
            scores = _ask(where, work)
            kept = scores if name == "ours over HTTP" else {}
            _keep(args, name, time.perf_counter() - began, kept, 0.0, len(scores))


def start(args: argparse.Namespace) -> None:
    """Start both servers and wait for them."""
    from benchmarks.gpu_steering import servers

    servers.start(SERVERS)
    servers.wait(SERVERS, 420)


def stop(args: argparse.Namespace) -> None:
    """Stop both servers."""
    from benchmarks.gpu_steering import servers

    servers.stop(SERVERS)


# --- results ------------------------------------------------------------------------------------------


def _file(args: argparse.Namespace, name: str) -> Path:
    return WORK / f"sweep-{args.selector}-{name.replace(' ', '_')}.json"


def _keep(
    args: argparse.Namespace,
    name: str,
    seconds: float,
    scores: Scores,
    memory: float,
    count: int | None = None,
) -> None:
    """Record a measurement, scaled to the whole sweep, and hold its scores against what others said."""
    done = count or len(scores)
    whole = PROMPTS * len(cells(1))
    line: dict[str, Any] = {
        "seconds": seconds,
        "passes": done,
        "whole_seconds": seconds * whole / done,
        "scaled": done != whole,
        "peak_memory_bytes": memory,
    }
    said = ""
    if scores:
        line["agreement"] = {}
        for path in sorted(WORK.glob(f"sweep-{args.selector}-*.json")):
            other = {tuple(key): value for key, value in json.loads(path.read_text())}
            shared = scores.keys() & other.keys()
            if shared:
                gaps = sorted(abs(scores[key] - other[key]) for key in shared)
                what = path.stem.split("-", 2)[2].replace("_", " ")
                line["agreement"][what] = {
                    "max": gaps[-1],
                    "median": gaps[len(gaps) // 2],
                    "passes": len(gaps),
                }
                said += f"; {what}: {gaps[-1]:.2g} at most, {gaps[len(gaps) // 2]:.2g} median"
        _file(args, name).write_text(json.dumps([[list(key), value] for key, value in scores.items()]))
    with changing() as results:
        results.setdefault(f"sweep_{args.selector}", {}).setdefault(name, []).append(line)
    mark = " (scaled)" if line["scaled"] else ""
    print(f"{args.selector} {name}: {line['whole_seconds']:.2f} s{mark}, {done} passes{said}", flush=True)


def table(args: argparse.Namespace) -> None:
    """Print the results as a Markdown table."""
    data = read()
    print("| contender | selector | seconds, each run | peak memory |\n|---|---|---|---|")
    for selector in ("last", "all"):
        for name, runs in data.get(f"sweep_{selector}", {}).items():
            seconds = ", ".join(f"{r['whole_seconds']:.2f}{' (scaled)' if r['scaled'] else ''}" for r in runs)
            memory = max(r["peak_memory_bytes"] for r in runs)
            print(f"| {name} | {selector} | {seconds} | {f'{memory / 2**30:.1f} GiB' if memory else '–'} |")


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("process", "http"):
        sub = commands.add_parser(name)
        sub.add_argument("selector", choices=["last", "all"])
        if name == "process":
            sub.add_argument("contenders", nargs="+", choices=["ours", "hooks", "cached"])
            sub.add_argument("--compiled", action="store_true", help="ours through torch.compile")
        sub.add_argument("--part", type=float, default=1.0, help="a seeded part of layers × strengths")
        sub.add_argument("--rounds", type=int, default=1)
    for name in ("start", "stop", "table"):
        commands.add_parser(name)
    args = parser.parse_args()
    {"process": process, "http": http, "start": start, "stop": stop, "table": table}[args.command](args)


if __name__ == "__main__":
    main()
