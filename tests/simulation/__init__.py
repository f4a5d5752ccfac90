"""Deterministic simulation: the product's own code, all processes of a server and its clients in
one process, under a schedule, a clock, a network and faults that a seed decides.
"""
