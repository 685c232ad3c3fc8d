"""The proxy between our jobs and the online services: a gateway, and a Thrift server and client around it."""
