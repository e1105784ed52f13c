"""Idempotent operations that pyinfra lacks or gets wrong, each with its reason."""
