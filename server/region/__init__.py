"""The shared region: its layout as tables, the object that holds it, counters, locks.

README.md of server/core has the rules that every store and load keeps.
"""
