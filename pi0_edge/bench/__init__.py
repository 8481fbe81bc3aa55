"""Latency of a policy on the machine that will run it, with the state of the machine and the accuracy beside it.

`run_bench` warms up, times chunks in closed and paced runs, watches the board meanwhile, and returns a `BenchResult`,
which says of itself whether it is valid. Everything else reads such a result: the page, the comparison, the budget, the
receipt, the serving certificate.
"""
