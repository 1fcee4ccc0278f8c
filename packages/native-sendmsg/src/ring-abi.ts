/**
 * io_uring(7) as Linux 6.10 and later speak it. Sources: `include/uapi/linux/io_uring.h` (structures, flags, opcodes),
 * io_uring_setup(2), io_uring_enter(2). The two system calls have one number on all architectures.
 */

export const SYS_IO_URING_SETUP = 425
export const SYS_IO_URING_ENTER = 426

/** Completion work runs when this thread enters the kernel anyway; it is not interrupted for it (5.19). */
export const SETUP_COOP_TASKRUN = 1 << 8
/** An operation that is refused does not keep those behind it from being submitted (5.18). */
export const SETUP_SUBMIT_ALL = 1 << 7
/** One thread submits (6.0). */
export const SETUP_SINGLE_ISSUER = 1 << 12
/** The rings lie in memory of the caller (6.5). */
export const SETUP_NO_MMAP = 1 << 14
/** Submissions are taken in their order, without an array of indices (6.6). */
export const SETUP_NO_SQARRAY = 1 << 16
export const ENTER_GETEVENTS = 1

/** The next one begins when this one has succeeded. */
export const LINK = 1 << 2
/** The next one begins when this one has ended, well or not (5.6). */
export const HARDLINK = 1 << 3
/** Success makes no completion. */
export const SKIP_SUCCESS = 1 << 6
/** Handed to a worker thread of the kernel's at once, instead of being tried first (5.6). */
export const ASYNC = 1 << 4
/** For ACCEPT, in `ioprio`: -EAGAIN instead of waiting (6.10). */
export const ACCEPT_DONTWAIT = 1 << 1

/** For ASYNC_CANCEL: by descriptor, and all that match (5.19). */
export const CANCEL_ALL_OF_FD = 0b11

/** For a uring command on a socket, in `offset`: setsockopt(2) (6.7). */
export const COMMAND_SETSOCKOPT = 3

/** `epollWait` is Linux 6.15's. */
export const OPCODES = {
  pollAdd: 6,
  accept: 13,
  asyncCancel: 14,
  close: 19,
  send: 26,
  uringCommand: 46,
  epollWait: 59,
} as const
export type Opcode = (typeof OPCODES)[keyof typeof OPCODES]

/** `struct io_uring_params`: byte offsets. Both halves begin with eight words and end with an address. */
export const PARAMS = {
  flags: 8,
  submission: 40,
  submissionMemory: 72,
  completion: 80,
  completionMemory: 112,
} as const
export const PARAMS_SIZE = 120

/** `struct io_sqring_offsets` and `struct io_cqring_offsets`, as far as they are needed. */
export const RING_OFFSETS = { head: 0, tail: 4, mask: 8, completions: 20 } as const

/** `struct io_uring_sqe`: indices of its 32-bit words. The first holds opcode, flags and ioprio. */
export const SQE = {
  fd: 1,
  offset: 2,
  address: 4,
  length: 6,
  operationFlags: 7,
  key: 8,
  rest: 10,
  optionLength: 11,
  optionValue: 12,
} as const
export const SQE_SIZE = 64

/** `struct io_uring_cqe`: 32-bit words. */
export const CQE = { key: 0, result: 2 } as const
export const CQE_SIZE = 16
