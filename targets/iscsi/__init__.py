"""The embedded iSCSI target (RFC 7143): a pure core and one server module with the sockets."""
