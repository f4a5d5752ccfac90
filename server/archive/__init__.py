"""The archive process: it keeps the rooms' events, and answers for what is older than the rings."""
