"""What `python -m benchmarks.load` is made of."""
