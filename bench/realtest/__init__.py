"""The Real Test: what this server does on this machine, from one command to a report.

`scenarios` is the table of what is run. `runner` runs each of them as a process of the stress
client and keeps its figures in small CSV files (`data`). `plots` and `report` are made from those
files and nothing else, so that they can be made again without a run. Whatever the report says is
computed from the figures beside it (`findings`).
"""
