"""The comparison of action heads: trained on the same frozen features for the same time, played, timed, and told.

`pi0-edge compare-heads` runs it, docs/action-heads.md tells what came out.
"""
