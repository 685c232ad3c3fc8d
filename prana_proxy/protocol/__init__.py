"""What the Thrift server and its client share: frame limits, Thrift structs and Arrow IPC."""
