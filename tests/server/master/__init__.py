"""Tests of the master: real servers that are started, signalled, and denied what they need."""
