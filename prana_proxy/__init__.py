"""The proxy in front of online services: a gateway, and a Thrift server and client around it."""
