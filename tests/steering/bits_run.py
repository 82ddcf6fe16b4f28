"""Runs in a process of its own: one engine, with the plugin or stock; writes what it says of plain requests.

The engine runs in this process and the prefix cache is off, so that every batch is made up in the same way.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.steering import tiny

PLAIN, NEIGHBOURS, STEPS = 12, 20, 4
SPECS = ("v0@L1@1@all", "v1@L2.resid_post@0.5rel@last", "v2@L0@1@generated", "v3@L3@-1@prompt")


def main() -> None:
    """Ask plain requests beside plain ones, alone, and with the plugin beside steered ones."""
    folder, out, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    tiny.set_environment()
    from vllm import LLM, SamplingParams

    from servers.steering.offline import OfflineSteering, offline_args

    options: dict[str, Any] = {} if "stock" in what else offline_args()
    llm: Any = LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=256,
        max_num_seqs=64,
        block_size=32,
        enforce_eager="compiled" not in what,
        enable_prefix_caching=False,
        **tiny.GPU_MEMORY,
        **options,
    )
    prompts = [tiny.prompt(i, 5 + 7 * i % 90) for i in range(PLAIN + NEIGHBOURS)]

    def ask(which: list[list[int]], extra: list[Any]) -> list[list[float]]:
        params = [
            SamplingParams(temperature=0, max_tokens=STEPS, logprobs=5, ignore_eos=True, extra_args=e)
            for e in extra
        ]
        outputs = llm.generate([{"prompt_token_ids": p} for p in which], params, use_tqdm=False)
        return [
            [step[token].logprob for step in output.outputs[0].logprobs for token in sorted(step)[:5]]
            for output in outputs
        ]

    nobody = [None] * len(prompts)
    found = {
        "beside plain": ask(prompts, nobody)[:PLAIN],
        "alone": [ask([prompt], [None])[0] for prompt in prompts[:PLAIN]],
    }
    if "stock" not in what:
        steering = OfflineSteering(llm, bos_id=tiny.BOS)
        for i in range(4):
            steering.load(tiny.vector(f"v{i}", i, layer=i))
        extra = [steering.extra_args(SPECS[i % 4]) if i >= PLAIN else None for i in range(len(prompts))]
        answers = ask(prompts, extra)
        found |= {"beside steered": answers[:PLAIN], "steered": answers[PLAIN:]}
        found["not steered"] = ask(prompts, nobody)[PLAIN:]
    np.savez(out, **{key: np.array(value) for key, value in found.items()})
    print("FOUND {}", flush=True)


if __name__ == "__main__":
    main()
