"""Documents about the server that are made from its tables; nothing depends on these modules."""
