"""The command line of `tradechat-cli`: options, one-shot commands, and the start of the chat."""
