"""What latencies are called and how they are told: stages, boundaries, percentiles, the serving certificate.

Whoever estimates, measures or limits a latency takes the words from here. Nothing here needs torch.
"""
