"""From the wire to a block device: front ends and the SCSI device server they share.

Knows logical units (`targets.lun`), never pairs, peers or MQTT.
"""
