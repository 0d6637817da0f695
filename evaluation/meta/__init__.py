"""Meta-learning as a program, `asgc-meta`: definitions, runs of particles on workers, the folder that it goes on from.

What is learned and how is `asgc.meta`'s.
"""
