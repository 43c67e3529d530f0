"""Benchmarks: hand-written against jax.grad and peers, interleaved in one process. Results are in results/."""
