"""What the programs of bench share: servers, their processes, connections, words of a verdict."""
