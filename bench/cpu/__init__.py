"""`tradechat-bench cpu`: the server's CPU time per request."""
