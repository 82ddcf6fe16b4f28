"""The vLLM side: starting stock servers, and plugins that vLLM finds through entry points."""
