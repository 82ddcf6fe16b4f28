"""``reports/training/gemma3_12b.md`` from what was measured."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_training.measure import BATCHES


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = found["plain"]

    def anchors(kind: str) -> str:
        return " / ".join(f"{rows[kind][str(b)]:.0f}" if str(b) in rows[kind] else "–" for b in BATCHES)

    loras, vectors, every = found["loras"], found["vectors"], found["all_layers"]
    best = max(rows["lora"].values())
    (beside,) = [part for part in loras["groups"] if found["layer"] in part["layers"]]
    together = 2 * len(beside["layers"]) * found["prompts"] * found["epochs"] / beside["seconds"]
    losses = [
        max(abs(a - b) / abs(b) for a, b in zip(pair["ours"], pair["plain"], strict=True))
        for pair in found["losses"].values()
    ]
    return "\n".join(
        [
            "# Training at Gemma 3 12B's shape, random weights",
            "",
            f"{found['device']}, bfloat16, {found['prompts']} prompts of {found['tokens']} tokens, "
            f"{found['epochs']} epochs, batches of 2 with 4 accumulated. Measured in one run by "
            "`python -m benchmarks.gpu_training measure`; a bf16 product of 8192³ ran at "
            f"{found['matmul_tflops']:.0f} TFLOP/s, by which the floors are counted.",
            "",
            "| | plain loop, batch 2 / 8 / 32, prompts/s | ours, prompts/s | all of them | floor | time ÷ floor "
            "| peak memory (planned) |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            f"| single-layer LoRAs, {found['shape']['layers']} layers × 2 | {anchors('lora')} (layer "
            f"{found['layer']}) | {loras['prompts_per_second']:.0f} (layer {found['layer']} alone: "
            f"{loras['layer_prompts_per_second']:.0f}) | {loras['seconds']:.0f} s, by {loras['steps_measured']} of "
            f"{loras['steps']} steps of each of {len(loras['groups'])} groups | {loras['floor_seconds']:.0f} s | "
            f"{loras['seconds'] / loras['floor_seconds']:.2f} | {loras['peak_gb']:.0f} GB "
            f"({loras['planned_gb']:.0f}) |",
            f"| vectors, {found['shape']['layers']} layers × 2 | {anchors('vector')} (layer {found['layer']}) | "
            f"{vectors['prompts_per_second']:.0f} | {vectors['seconds']:.1f} s, of which "
            f"{vectors['prefix_seconds']:.1f} s prefix ({vectors['first_seconds']:.1f} s the first time in a process) "
            f"| {vectors['floor_seconds']:.1f} s | "
            f"{vectors['seconds'] / vectors['floor_seconds']:.2f} | {vectors['peak_gb']:.0f} GB "
            f"({vectors['planned_gb']:.0f}) |",
            f"| all-layer LoRA, batch {every['batch']} | {anchors('all')} | {every['prompts_per_second']:.0f} | | | "
            f"| {every['peak_gb']:.0f} GB |",
            "",
            f"Against the plain loop at layer {found['layer']}: LoRAs of that layer in their group (layers "
            f"{beside['layers'][0]} to {beside['layers'][-1]} × 2, {together:.0f} prompts/s) "
            f"{together / rows['lora']['2']:.1f}× its batch 2 and {together / best:.2f}× its best batch, the two of "
            f"that layer alone {loras['layer_prompts_per_second'] / rows['lora']['2']:.1f}× and "
            f"{loras['layer_prompts_per_second'] / best:.2f}×; vectors "
            f"{vectors['prompts_per_second'] / rows['vector']['8']:.0f}× its batch 8; the all-layer LoRA "
            f"{every['prompts_per_second'] / max(rows['all'].values()):.2f}× its best batch. Losses of the first "
            f"{len(found['losses']['lora']['ours'])} steps on the same batches, dropout by the same masks, differ "
            f"by {losses[0]:.1e} (LoRA) and {losses[1]:.1e} (vector), relative.",
            "",
        ]
    )
