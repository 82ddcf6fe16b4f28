"""The study's experiments: each a short module that composes plan, engine, rows and statistics."""
