"""The master process: it forks, supervises and repairs, and touches no client and no account."""
