"""Experiments 1 to 8 of the study as one resumable job, from a preset to the report.

Each step calls what its own command calls and goes on by that command's own journal. The folder holds

``reproduce.json``
    schema_version, kind = "reproduce", settings (all that determines the numbers), settings_sha256, machine, and
    steps: name, experiment, title, sizes, memory_gb, estimated_seconds, status (pending, running, done, skipped),
    seconds (of the attempt that finished it), attempts. git and versions are those of the step begun last.
``journal.jsonl``
    what began and ended when, one checked line each, from which ``reproduce.json`` is written. A line of a step's
    beginning has git and versions too: a folder that is gone on with by other code says so.
``loras/``, ``vectors/``, ``layers/``, ``awareness/``, ``story/``, ``alone/``, ``sweeps/``, ``backdoors/``,
``backdoor_awareness/``, ``patching/``
    the steps' own folders, as the single commands write them.
``report.html``, ``figures/``
    the report of all results.
"""

SCHEMA_VERSION = 1
KIND = "reproduce"
FILE = "reproduce.json"
