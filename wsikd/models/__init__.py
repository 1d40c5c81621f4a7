"""Networks, and the file that carries one."""
