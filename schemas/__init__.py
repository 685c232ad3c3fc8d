"""What everything shares: data keys, Arrow schemas, bucket hashing, the Thrift contract, errors. Imports nothing of ours."""
