/**
 * io_uring(7) of Linux 6.10 and later. Sources: `include/uapi/linux/io_uring.h` (structures, flags, opcodes),
 * io_uring_setup(2), io_uring_enter(2). The two system calls have the same numbers on all architectures.
 */

export const SYS_IO_URING_SETUP = 425
export const SYS_IO_URING_ENTER = 426

/** Completion work runs when this thread next enters the kernel, without interrupting it (5.19). */
export const SETUP_COOP_TASKRUN = 1 << 8
/** A refused operation does not stop later ones from being submitted (5.18). */
export const SETUP_SUBMIT_ALL = 1 << 7
/** Only one thread submits (6.0). */
export const SETUP_SINGLE_ISSUER = 1 << 12
/** The rings are in the caller's memory (6.5). */
export const SETUP_NO_MMAP = 1 << 14
/** Submissions are consumed in order, without an index array (6.6). */
export const SETUP_NO_SQARRAY = 1 << 16
export const ENTER_GETEVENTS = 1

/** The next operation starts when this one has succeeded. */
export const LINK = 1 << 2
/** The next operation starts when this one has completed, even if it failed (5.6). */
export const HARDLINK = 1 << 3
/** Success generates no completion. */
export const SKIP_SUCCESS = 1 << 6
/** Passed to a kernel worker thread directly, instead of being tried inline first (5.6). */
export const ASYNC = 1 << 4
/** For ACCEPT, in `ioprio`: fails with -EAGAIN instead of waiting (6.10). */
export const ACCEPT_DONTWAIT = 1 << 1

/** For ASYNC_CANCEL: matches by descriptor, and cancels all matches (5.19). */
export const CANCEL_ALL_OF_FD = 0b11

/** For a uring command on a socket, in `offset`: setsockopt(2) (6.7). */
export const COMMAND_SETSOCKOPT = 3

/** `epollWait` needs Linux 6.15. */
export const OPCODES = {
  pollAdd: 6,
  accept: 13,
  asyncCancel: 14,
  close: 19,
  send: 26,
  receive: 27,
  /** The descriptor is in `offset`, the operation in `length`. */
  epollControl: 29,
  uringCommand: 46,
  epollWait: 59,
} as const
export type Opcode = (typeof OPCODES)[keyof typeof OPCODES]

/** `struct io_uring_params`: byte offsets. Its two offset structures each have eight words and an address. */
export const PARAMS = {
  flags: 8,
  submission: 40,
  submissionMemory: 72,
  completion: 80,
  completionMemory: 112,
} as const
export const PARAMS_SIZE = 120

/** The fields of `struct io_sqring_offsets` and `struct io_cqring_offsets` that are needed. */
export const RING_OFFSETS = { head: 0, tail: 4, mask: 8, completions: 20 } as const

/** `struct io_uring_sqe`: indices of 32-bit words. Word 0 holds opcode, flags and ioprio. */
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

/** `struct io_uring_cqe`: indices of 32-bit words. */
export const CQE = { key: 0, result: 2 } as const
export const CQE_SIZE = 16
