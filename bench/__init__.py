"""Benchmarks. ``python bench/kernel_bench.py --help`` is where to start."""
