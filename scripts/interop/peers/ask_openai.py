"""The openai package alone: reads questions as JSON from stdin, writes log-probabilities as JSON to stdout."""

import json
import sys

import openai

asked = json.load(sys.stdin)
client = openai.OpenAI(base_url=asked["base_url"], api_key=asked["api_key"])
answers = []
for question in asked["questions"]:
    wanted = [*question["positive_ids"], *question["negative_ids"]]
    by_id = client.completions.create(
        model=question["model"],
        prompt=question["prompt_ids"],
        max_tokens=1,
        temperature=0,
        logprobs=1,
        extra_body={"logprob_token_ids": wanted, "return_tokens_as_token_ids": True},
    )
    plain = client.completions.create(
        model=question["model"], prompt=question["text"], max_tokens=1, temperature=0, logprobs=20
    )
    answers.append(
        {
            "by_id": by_id.choices[0].logprobs.top_logprobs[0],
            "top_20": plain.choices[0].logprobs.top_logprobs[0],
            "prompt_tokens": plain.usage.prompt_tokens,
        }
    )
json.dump(answers, sys.stdout)
