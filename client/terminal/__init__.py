"""What the chat and the command line share: what people give, and what they are shown."""
