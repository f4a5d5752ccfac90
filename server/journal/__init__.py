"""What survives the machine: the write-ahead journal of the txn log and its snapshots.

README.md in this folder has the rules; docs/JOURNAL.md has the bytes.
"""
