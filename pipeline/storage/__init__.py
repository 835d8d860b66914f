"""Files on local disks, in object stores, and behind schemes of Beam."""
