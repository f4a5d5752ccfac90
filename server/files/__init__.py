"""Files of rooms: the store of their contents, and how links are fetched into it."""
