"""The training loop on the clock: what is run, on how many ranks, and what is written down."""
