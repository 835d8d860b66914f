"""Files on local disks, in object stores, and behind Beam's file systems."""
