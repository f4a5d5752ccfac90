"""What survives the machine: the write-ahead journal of the txn log, its snapshots, and the events
of the rooms. README.md in this folder has the rules; docs/JOURNAL.md has the bytes.
"""
