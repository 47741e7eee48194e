"""Many calls, in processes of this machine or in a queue."""
