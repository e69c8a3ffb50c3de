"""Where work is done: in the driver's process, in worker processes, on Ray, or on a simulated landscape."""
