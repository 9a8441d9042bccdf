"""Raw bytes that both the protocol and the broker read: field tables and property lists."""
