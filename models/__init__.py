"""The papers as pure functions and modules: torch, no host."""
