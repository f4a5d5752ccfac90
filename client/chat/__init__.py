"""The line chat of `tradechat-cli`."""
