"""The native decoder: its C source, its build, and the ctypes binding."""
