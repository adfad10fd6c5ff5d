"""CUDA devices without torch or a toolkit: the driver's own library, and one kernel that makes views."""
