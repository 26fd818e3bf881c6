"""From what was written down to causes: every nanosecond to one of them, figures, advice."""
