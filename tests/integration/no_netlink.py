"""Runs a command without netlink, as `RestrictAddressFamilies=` without AF_NETLINK has it.

    python no_netlink.py COMMAND [ARGUMENT ...]

By a seccomp filter, which systemd uses too (systemd.exec(5)): socket(AF_NETLINK, ...) fails with EAFNOSUPPORT. Exits 77
where there is no seccomp.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
AF_NETLINK = 16
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/filter.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET
NUMBER_AT, FIRST_ARGUMENT_AT = 0, 16  # struct seccomp_data
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
NO_SECCOMP = 77


def main() -> None:
    steps = [
        (LOAD, 0, 0, NUMBER_AT),
        (JUMP_IF_EQUAL, 0, 3, SOCKET),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (JUMP_IF_EQUAL, 0, 1, AF_NETLINK),
        (RETURN, 0, 0, FAIL_WITH | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, ALLOW),
    ]
    if SOCKET is None:
        sys.exit(NO_SECCOMP)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    # Root would need no PR_SET_NO_NEW_PRIVS; nothing that is run here is set-user-ID.
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        sys.exit(NO_SECCOMP)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
