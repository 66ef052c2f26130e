"""The device server and the embedded iSCSI target, without real initiators."""
