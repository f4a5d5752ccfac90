"""The tests of tradechat: one folder per package, one file per module."""
