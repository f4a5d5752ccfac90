"""`tradechat-admin`: looks into the live region and the data directory without taking a lock."""
