"""A promptfoo configuration: its own HTTP provider asks for the answers' log-probabilities by token id.

promptfoo's OpenAI providers hand on the sampled token's log-probability only, so no difference can be made of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

from harness.integrations.tasks import Exported, client_name, shell, write_files
from harness.prompts import Encoded
from harness.subject import Subject

_RESPONSE: Final = "JSON.stringify(json.choices[0].logprobs.top_logprobs[0])"
_TRANSFORM: Final = (
    "((top, sum) => ((positive_logprob, negative_logprob) => JSON.stringify({ logit_diff: positive_logprob - "
    "negative_logprob, positive_logprob, negative_logprob }))(sum(top, context.vars.positive_ids), "
    "sum(top, context.vars.negative_ids)))(JSON.parse(output), (top, ids) => "
    "Math.log(JSON.parse(ids).reduce((total, id) => total + Math.exp(top['token_id:' + id]), 0)))"
)
README: Final = """# A promptfoo configuration

Start a server with `harness serve`, then:
```
{command}
```
An output is JSON with `logit_diff`, log p(positive) - log p(negative) in nats; a shift is a model's minus base's.
A test passes where the positive answer is the likelier one.

- **Cache.** promptfoo keeps answers by request, and `base` is called so whatever its weights: without `--no-cache`
  another base model at the same address would get the first one's answers, adapters on it too.
- **Templates.** promptfoo renders prompts with Nunjucks, so prompts go as token ids; the text is shown only.
- **Top 20.** `logprobs: 20` drops an answer beyond the 20 likeliest: `logprob_token_ids` asks for it by id.
"""


def export_config(folder: Path, exported: Exported, subjects: list[Subject], base_url: str) -> str:
    """Write ``promptfooconfig.yaml`` and ``tests.json``; return the command that runs them.

    Raises:
        InputError: the folder isn't empty.
        RunError: it can't be written.

    """
    url = f"{base_url.rstrip('/').removesuffix('/v1')}/v1/completions"
    config = {
        "description": f"Self-report: {', '.join(suite.name for suite in exported.suites)}",
        "prompts": ["{{prompt_ids}}"],
        "providers": [_provider(client_name(subject), subject.name, url) for subject in subjects],
        "defaultTest": {"options": {"transform": _TRANSFORM}},
        "tests": "file://tests.json",
    }
    tests = [
        _test(suite.name, encoded, exported.builder.text(encoded.item))
        for suite in exported.suites
        for encoded in suite.items
    ]
    command = shell(
        [
            *("promptfoo", "eval", "-c", str(folder / "promptfooconfig.yaml")),
            *("-o", str(folder / "results.json"), "--no-cache"),
        ]
    )
    write_files(
        folder,
        {
            "promptfooconfig.yaml": yaml.safe_dump(config, sort_keys=False, width=100),
            "tests.json": json.dumps(tests, indent=1, ensure_ascii=False) + "\n",
            "README.md": README.format(command=command),
        },
    )
    return command


def _provider(model: str, label: str, url: str) -> dict[str, Any]:
    body = {
        "model": model,
        "prompt": "{{prompt_ids}}",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "logprob_token_ids": "{{wanted_ids}}",
        "return_tokens_as_token_ids": True,
    }
    headers = {"Content-Type": "application/json", "Authorization": "Bearer {{env.HARNESS_API_KEY}}"}
    return {
        "id": url,
        "label": label,
        "config": {"method": "POST", "headers": headers, "body": body, "transformResponse": _RESPONSE},
    }


def _test(suite: str, encoded: Encoded, text: str) -> dict[str, Any]:
    return {
        "description": f"{suite}/{encoded.item.id}",
        "vars": {
            "prompt_ids": json.dumps(encoded.prompt_ids),
            "wanted_ids": json.dumps(encoded.wanted_ids),
            "positive_ids": json.dumps(encoded.positive_ids),
            "negative_ids": json.dumps(encoded.negative_ids),
        },
        "metadata": {"suite": suite, "item": encoded.item.id, "stem": encoded.item.stem, "text": text},
        "assert": [{"type": "javascript", "value": "JSON.parse(output).logit_diff > 0"}],
    }
