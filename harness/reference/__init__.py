"""Transformers in float32 with peft and forward hooks: the truth that tests, doctor and sweeps rest on."""
