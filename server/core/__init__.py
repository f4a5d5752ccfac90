"""What happens in the shared region: without sockets, logging or a clock.

`State` is what one worker holds of it; README.md in this folder has the rules that every line
here keeps.
"""
