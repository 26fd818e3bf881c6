"""How long an accelerator starved, and for what: the measurement, its page, its controls."""
