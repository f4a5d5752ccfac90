"""The client without any input or output, and without a clock: what both clients have in common.

resume      a session that goes on over lost connections
session     one session: requests and answers, what is unanswered
login       the steps of REGISTER and LOGIN
auth        their requests, and what proves a password
calls       every other request: its arguments, its message, its result
rooms, gaps, backoff, pushes
"""
