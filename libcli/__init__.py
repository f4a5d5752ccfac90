"""What every program does the same way at its edge: environment variables and output.

It knows nothing of chat or money, so every program can use it, whatever else it is made of.
"""
