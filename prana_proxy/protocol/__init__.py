"""What the Thrift server and its client share: frames, words and Arrow IPC."""
