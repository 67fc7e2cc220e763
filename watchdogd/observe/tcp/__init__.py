"""The kernel's table of sockets: by SOCK_DIAG, or by /proc/net/tcp where that is all there is."""
