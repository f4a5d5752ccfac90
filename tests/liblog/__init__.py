"""Tests of liblog."""
