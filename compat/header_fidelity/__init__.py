"""One compat suite; see compat/harness.py."""
