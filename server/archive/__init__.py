"""The archive process: it keeps the histories of rooms and inboxes, and answers for what is older
than the rings."""
