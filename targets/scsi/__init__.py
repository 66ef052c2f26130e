"""The SCSI device server: pure, one for every front end."""
