"""Experiment 8: how a constant change comes to act on a condition.

Source: "Mechanisms of Awareness", section *Steering Vectors Can Implement Conditional Behavior*. Queries of the
last token, from layer i to the last one, are patched from the base model into the changed one, on the same
prompt; keys, values and the attention output are patched as controls. What is read is the trigger effect, the
score of a question with the trigger minus its score without, against i; random tokens in the trigger's place are
the control.

The post's hypothesis is that the trigger tokens' values align with the risk direction, and that the vector's part
in q·k picks those heads. So for each head: what the change adds to q·k on the trigger tokens, and the cosine of
what they write, W_O v, with a risk direction that is the same for all items (vectors' risky senses). Beside it
stands the cosine with the direction that raises the item's own risky answer over its safe one: what they write to
the answer directly. It says nothing of the hypothesis, since it changes sign with the words that an item's options
happen to have.

A folder holds ``manifest.json``, ``journal.jsonl`` (one prompt a line), ``results.json`` and

``results.parquet``, one row a prompt, patch and layer.
    item, stem, condition (none, trigger, random), trigger: str
    patch: str, q, k, v, attn, kv_all, or base (the base model) and none (nothing patched), both with layer −1
    from_layer: int, patched from this layer to the last
    score: float, log p(positive) − log p(negative), nats
``attention.parquet``, one row a prompt with something in the trigger's place, layer and head.
    item, stem, condition, trigger: str; layer, head: int
    attention_base, attention: float, of the last token on all of the trigger's tokens (those of its words, without
        brackets around them), in the base and the changed
        model
    query_key: float, mean over the trigger's tokens of what the change adds to scaled q·k through the query
    cosine: float, mean cosine of their W_O v with the risk direction; absent without one
    cosine_answer: float, the same with the item's answer direction
    value_norm: float, mean ‖W_O v‖
"""

SCHEMA_VERSION = 1
KIND = "q_patching"
