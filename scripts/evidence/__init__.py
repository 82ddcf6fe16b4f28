"""The project's claims with their figures: one module a topic."""
