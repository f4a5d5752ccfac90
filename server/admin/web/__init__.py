"""The admin process: what the operator sees over HTTP. It reads the region only."""
