"""Tests of libnet."""
