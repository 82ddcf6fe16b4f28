"""Run by the peers' own interpreters, which know nothing of this project."""
