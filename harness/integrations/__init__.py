"""Other tools: tasks and configurations for them, and a run's results in their formats. Each is imported lazily."""
