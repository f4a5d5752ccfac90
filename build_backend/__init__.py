"""How the wheel is made: the packages of the tree, moved into one. It is not installed."""
