"""Training at Gemma 3 12B's full shape with random weights: the plain peft loop and ours in one run, beside floors.

    python -m benchmarks.gpu_training measure OUT.json      # on a GPU host, some five minutes
    python -m benchmarks.gpu_training table OUT.json        # the table, from what was measured

230 prompts of 100 tokens, three epochs, the original's settings (batches of 2, four accumulated, dropout 0.05).
Rates are prompts a second, of one training or summed over those that advance together. What is too long to run
whole is measured over some steps of each group and multiplied by the steps there are; the table says so.
"""
