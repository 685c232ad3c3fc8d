"""What everything shares: data keys, Arrow schemas, one hash, the Thrift contract, errors. Imports nothing of ours."""
