/**
 * Numbers and layouts of the 64-bit little-endian Linux ABI (x64 and arm64), in one place.
 *
 * Sources: kernel `include/linux/socket.h` (`struct user_msghdr`, `struct mmsghdr`, `struct cmsghdr`),
 * `include/uapi/asm-generic/{fcntl,socket,unistd}.h`, `include/uapi/linux/{un,in,in6,eventpoll,memfd,wait}.h`;
 * glibc `bits/socket.h`; musl `include/sys/socket.h`.
 *
 * The C libraries declare some lengths with different widths: glibc has `size_t msg_iovlen`, `size_t
 * msg_controllen` and `size_t cmsg_len`; musl has `int`/`socklen_t` followed by explicit padding. The
 * fields start at the same offsets, and on a little-endian machine a small 32-bit number followed by 32
 * zero bits is identical to that number in 64 bits. So we write the low 32 bits and keep the high
 * ones zero, which suits the kernel, glibc and musl. (musl zeroes its padding itself; to do so, its
 * `sendmsg` copies the control buffer, and fails with ENOMEM above 1,040 bytes. 253 descriptors need
 * 1,032.)
 */

/** `struct msghdr` inside `struct mmsghdr`: byte offsets. */
export const MSGHDR = {
  /** `void *msg_name` */
  name: 0,
  /** `socklen_t msg_namelen`, then 4 bytes of padding */
  namelen: 8,
  /** `struct iovec *msg_iov` */
  iov: 16,
  /** `size_t msg_iovlen` (musl: `int` and padding) */
  iovlen: 24,
  /** `void *msg_control` */
  control: 32,
  /** `size_t msg_controllen` (musl: `socklen_t` and padding) */
  controllen: 40,
  /** `int msg_flags`, then 4 bytes of padding */
  flags: 48,
  /** `unsigned int msg_len` of `struct mmsghdr`, after the 56 bytes of the header */
  len: 56,
} as const

/** `sizeof(struct mmsghdr)`; the first 56 bytes are a `struct msghdr`. */
export const MMSGHDR_SIZE = 64
/** `sizeof(struct iovec)`: `void *iov_base`, `size_t iov_len`. */
export const IOVEC_SIZE = 16
/** `sizeof(struct cmsghdr)`: `size_t cmsg_len` at 0, `int cmsg_level` at 8, `int cmsg_type` at 12. */
export const CMSGHDR_SIZE = 16

/** `CMSG_LEN(bytes)`: the value of `cmsg_len` for a payload of this size. */
export const cmsgLength = (bytes: number): number => CMSGHDR_SIZE + bytes
/** `CMSG_SPACE(bytes)`: the space it takes in the buffer; the payload is padded to 8 bytes. */
export const cmsgSpace = (bytes: number): number => CMSGHDR_SIZE + align8(bytes)
export const align8 = (bytes: number): number => Math.ceil(bytes / 8) * 8

/** Maximum number of descriptors in one message (kernel `include/net/scm.h`); more are EINVAL. */
export const SCM_MAX_FD = 253
export const SCM_RIGHTS = 1
/** A pidfd of the sender, created for a receiver with SO_PASSPIDFD (Linux 6.5), which must close it. */
export const SCM_PIDFD = 4

export const AF_UNIX = 1
export const AF_INET = 2
export const AF_INET6 = 10
export const AF_NETLINK = 16
export const SOCK_STREAM = 1
export const SOCK_DGRAM = 2
export const SOCK_RAW = 3
export const SOCK_SEQPACKET = 5
export const SOCK_NONBLOCK = 0o4000
export const SOCK_CLOEXEC = 0o2000000

export const SOL_SOCKET = 1
export const SO_REUSEADDR = 2
export const SO_TYPE = 3
export const SO_ERROR = 4
export const SO_KEEPALIVE = 9
export const SO_LINGER = 13
export const SO_RCVLOWAT = 18
export const SO_PEERCRED = 17
export const SO_ACCEPTCONN = 30
/** Linux 6.16: 0 makes the kernel refuse descriptors (EPERM at the sender) instead of queueing them. */
export const SO_PASSRIGHTS = 83
export const IPPROTO_TCP = 6
export const TCP_NODELAY = 1
export const IPPROTO_IPV6 = 41
export const IPV6_V6ONLY = 26

export const MSG_PEEK = 0x2
export const MSG_CTRUNC = 0x8
export const MSG_TRUNC = 0x20
export const MSG_DONTWAIT = 0x40
export const MSG_NOSIGNAL = 0x4000
export const MSG_CMSG_CLOEXEC = 0x40000000
export const SHUT_RDWR = 2

export const F_GETFD = 1
export const F_SETFD = 2
export const F_GETFL = 3
export const F_SETFL = 4
export const F_DUPFD_CLOEXEC = 1030
export const FD_CLOEXEC = 1
export const O_RDWR = 2
export const O_CREAT = 0o100
export const O_NONBLOCK = 0o4000
/** These two have other values on arm64 (`arch/arm64/include/uapi/asm/fcntl.h`). */
export const O_DIRECTORY = process.arch === 'arm64' ? 0o40000 : 0o200000
export const O_NOFOLLOW = process.arch === 'arm64' ? 0o100000 : 0o400000
export const O_CLOEXEC = 0o2000000

export const LOCK_EX = 2
export const LOCK_NB = 4
export const MFD_CLOEXEC = 1
export const MFD_EXEC = 0x10
export const WNOHANG = 1
/** pidfd_open(2) has the same number on all architectures; glibc has a wrapper only since 2.36. */
export const SYS_PIDFD_OPEN = 434
/** kcmp(2) has no libc wrapper; its number depends on the architecture. */
export const SYS_KCMP = process.arch === 'arm64' ? 272 : 312
export const KCMP_FILE = 0

/** `sizeof(struct sockaddr_un)`: a family and 108 bytes of path. */
export const SOCKADDR_UN_SIZE = 110
export const SUN_PATH_SIZE = 108

/**
 * `struct epoll_event` is packed only on x86-64 (12 bytes, data at 4); elsewhere the u64 is aligned (16
 * bytes, data at 8). Source: `EPOLL_PACKED` in `include/uapi/linux/eventpoll.h`.
 */
export const EPOLL_EVENT_SIZE = process.arch === 'x64' ? 12 : 16
export const EPOLL_DATA = process.arch === 'x64' ? 4 : 8
export const EPOLL_CTL_ADD = 1
export const EPOLL_CTL_DEL = 2
export const EPOLL_CTL_MOD = 3

export const CLOCK_MONOTONIC = 1
