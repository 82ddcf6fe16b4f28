"""What a LoRA learned, and what is shipped."""

from __future__ import annotations

import json
from collections.abc import Iterator

from harness.adapters import shipped_adapters
from harness.artifacts import SHIPPED_LIMIT, artifact_folders, hash_problems, read_artifact
from scripts.evidence.line import REPORTS, Line

ONE = 0.9


def vector_story() -> Iterator[Line]:
    """Whether a LoRA is one vector, over a passage and where it answers; size and hashes of what is shipped."""
    for file in sorted((REPORTS / "vector_story").glob("*/story.json")):
        story = json.loads(file.read_text("utf-8"))
        for where, judged in (
            ("poetry", story["passages"]["poetry"]),
            ("test prompts' last tokens", story["answer_positions"]),
        ):
            yield Line(
                f"{story['adapter']}: mean pairwise cosine, {judged['tokens']} positions, {where}",
                f"{judged['mean_cosine']:.2f}",
                f">= {ONE} (the study: about 1)",
                judged["mean_cosine"] >= ONE,
            )
    artifacts = [read_artifact(path) for path in artifact_folders([shipped_adapters()]).values()]
    size = sum(artifact.size for artifact in artifacts)
    changed = [artifact.name for artifact in artifacts if hash_problems(artifact)]
    yield Line(
        f"{len(artifacts)} shipped adapters and vectors: size; hashes that differ from the records'",
        f"{size / 1e6:.1f} MB; {', '.join(changed) or 'none'}",
        f"< {SHIPPED_LIMIT / 1e6:.0f} MB; none",
        size < SHIPPED_LIMIT and not changed,
    )
