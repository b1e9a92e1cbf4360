"""What `pierhead doctor` looks at: the disks of the stores, the process, the way through a proxy."""
