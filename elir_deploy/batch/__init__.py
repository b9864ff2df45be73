"""Many images on many devices: folders and buckets, restored by workers on Ray."""
