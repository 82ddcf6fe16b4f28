"""Stale compiled graphs: one cache folder, a plain engine first, then plugins of several layouts and versions.

A small Gemma 3, one process an engine. ``unstamped`` is the control: a plugin that doesn't mark its graphs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu_steering.places import CPU, SCRIPTS, WORK, record

FOLDER: Final = WORK / "stale"
SMALL: Final = "--layers 6 --hidden 640 --vocab 8192"
TRIALS: Final = (("plain",), ("unstamped", "plugin", "layout"), ("plugin again", "version"))
"""Engines that start at the same time, wave by wave."""
SPEC: Final = "v@L3.resid_post@1@all"
WATCHED: Final = [500 + 100 * i for i in range(48)]


def stale() -> None:
    """Run all engines; keep what each loaded or compiled, and how far its answers are from the reference."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = FOLDER / "model"
    command = [sys.executable, str(SCRIPTS / "gemma3_config.py"), str(model), *SMALL.split()]
    subprocess.run([*command, "--tokenizer", str(SCRIPTS / "gemma3_tokenizer.tar.xz")], check=True)
    reference = _reference(model)
    env = {**os.environ, "VLLM_PLUGINS": "harness_mends,harness_steering"}
    env |= {"VLLM_CACHE_ROOT": str(FOLDER / "cache"), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    for wave in TRIALS:
        running = {}
        for trial in wave:
            argv = [sys.executable, "-m", "benchmarks.gpu_steering.stale", trial]
            with (FOLDER / f"{trial}.log").open("w") as log:
                running[trial] = subprocess.Popen(argv, env=env, stdout=log, stderr=subprocess.STDOUT)
        for trial, process in running.items():
            code = process.wait(timeout=600)
            out = FOLDER / f"{trial}.json"
            if code or not out.exists():
                tail = (FOLDER / f"{trial}.log").read_text(errors="replace")[-1500:]
                record("stale", {trial: {"failed": code, "said": tail}})
                print(f"stale {trial}: exit {code}\n{tail}", flush=True)
                continue
            answer = json.loads(out.read_text())
            asked = {k: answer.pop(k) for k in ("base", "steered") if k in answer}
            answer |= {f"{k}_error": _gap(v, reference[k]) for k, v in asked.items()}
            answer["steering_moves"] = _gap(reference["steered"], reference["base"])
            record("stale", {trial: answer})
            print(f"stale {trial}: {answer}", flush=True)


def _gap(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _prompt() -> list[int]:
    rng = random.Random(3)
    return [2] + [rng.randrange(300, 8000) for _ in range(40)]


def _vector() -> Any:
    import numpy as np

    from harness.vectors import SteeringVector, VectorConfig

    values = np.random.default_rng(3).standard_normal(640).astype(np.float32)
    return SteeringVector("v", VectorConfig("model", 3, "resid_post"), values)


def _reference(folder: Path) -> dict[str, list[float]]:
    import numpy as np
    import torch
    import transformers

    from harness.reference.hooks import HookedTerm, steering
    from harness.spec import SteeringSpec

    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    text = (folder / "config.json").read_text()
    model.save_pretrained(folder)
    (folder / "config.json").write_text(text)
    vector = _vector()
    terms = [
        HookedTerm(vector.resolve(t), torch.from_numpy(np.array(vector.values)))
        for t in SteeringSpec.from_name(SPEC).terms
    ]
    prompt = _prompt()
    found = {}
    for name, hooked in (("base", []), ("steered", terms)):
        with torch.no_grad(), steering(model.float(), hooked, len(prompt), len(prompt), True):
            logits = model(torch.tensor([prompt])).logits[0, -1]
        found[name] = logits.float().log_softmax(-1)[WATCHED].tolist()
    return found


def engine(trial: str) -> None:
    """Start one engine in this process, ask it, write what it says."""
    from vllm import LLM, SamplingParams
    from vllm.compilation.counter import compilation_counter

    from servers.steering import support, worker
    from servers.steering.offline import OfflineSteering, offline_args

    if trial == "unstamped":
        stamped = worker.before_load

        def unstamped(vllm_config: Any, *args: Any) -> None:
            stamped(vllm_config, *args)
            vllm_config.additional_config.clear()

        worker.before_load = unstamped
    if trial == "version":
        digest = support.plugin_digest()[::-1]
        worker.plugin_digest = lambda: digest  # type: ignore[assignment]
    options: dict[str, Any] = {} if trial == "plain" else offline_args(lanes=2 if trial == "layout" else 1)
    if CPU:
        options |= {"block_size": 32, "dtype": "float32"}
    else:
        options |= {"gpu_memory_utilization": 0.02, "dtype": "bfloat16"}
    llm: Any = LLM(
        str(FOLDER / "model"),
        max_model_len=512,
        max_num_seqs=8,
        max_logprobs=64,
        kv_cache_memory_bytes=256 << 20,
        hf_overrides={"head_dtype": "float32"},
        compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8]},
        **options,
    )

    def ask(extra: dict[str, str] | None) -> list[float]:
        params = SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=WATCHED, extra_args=extra)
        (output,) = llm.generate([{"prompt_token_ids": _prompt()}], params, use_tqdm=False)
        step = output.outputs[0].logprobs[0]
        return [step[token].logprob for token in WATCHED]

    answer: dict[str, Any] = {"base": ask(None)}
    if trial != "plain":
        steering = OfflineSteering(llm, bos_id=2)
        steering.load(_vector())
        answer["steered"] = ask(steering.extra_args(SPEC))
    answer["graphs_loaded"] = compilation_counter.num_aot_artifacts_loaded
    answer["graphs_compiled"] = compilation_counter.num_aot_compiles
    (FOLDER / f"{trial}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    engine(sys.argv[1])
