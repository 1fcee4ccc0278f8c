import { getSystemErrorMap } from 'node:util'
import { errnoNames } from './errno.ts'

/**
 * Errors of this package: stable `code` and message. Errors of system calls are `NativeError`, whose `code`
 * is the errno name.
 */
export const errorMessages = {
  BATON_ERR_UNSUPPORTED_PLATFORM: 'descriptor passing needs Linux on x64 or arm64',
  BATON_ERR_SHORT_SEND: 'only part of the message was sent; its descriptors may have been sent too',
  BATON_ERR_UNEXPECTED_END: 'the peer closed the connection before everything had arrived',
  BATON_ERR_LIMIT_EXCEEDED: 'more data than the caller allows',
  BATON_ERR_MESSAGE_TRUNCATED: 'the message was longer than the caller allows; the rest is lost',
  BATON_ERR_CONTROL_TRUNCATED: 'descriptors were lost on arrival; is the process out of descriptors?',
  BATON_ERR_CONTROL_INVALID: 'unexpected control message',
  BATON_ERR_NO_DESCRIPTOR: 'a message arrived without a descriptor',
  BATON_ERR_FD_CLOSED: 'the descriptor was closed or released',
  BATON_ERR_INVALID_ARGUMENT: 'invalid argument',
} as const

export type BatonNativeErrorCode = keyof typeof errorMessages

/** Base of all errors below. `code` is stable across versions: match on it, not on the message. */
export class BatonNativeError extends Error {
  static {
    this.prototype.name = 'BatonNativeError'
  }
  readonly code: BatonNativeErrorCode

  constructor(code: BatonNativeErrorCode, detail?: string, options?: ErrorOptions) {
    super(detail === undefined ? errorMessages[code] : `${errorMessages[code]}: ${detail}`, options)
    this.code = code
  }
}

/** Thrown by every function if `supported` is false; importing the package never throws. */
export class UnsupportedPlatformError extends BatonNativeError {
  static {
    this.prototype.name = 'UnsupportedPlatformError'
  }
  declare readonly code: 'BATON_ERR_UNSUPPORTED_PLATFORM'

  constructor(detail: string, options?: ErrorOptions) {
    super('BATON_ERR_UNSUPPORTED_PLATFORM', detail, options)
  }
}

/**
 * A stream accepted `sent` of `wanted` bytes. The kernel attaches descriptors to the first byte, so they may
 * already have been received; the sender must treat them as gone.
 */
export class ShortSendError extends BatonNativeError {
  static {
    this.prototype.name = 'ShortSendError'
  }
  declare readonly code: 'BATON_ERR_SHORT_SEND'
  readonly sent: number
  readonly wanted: number

  constructor(fd: number, sent: number, wanted: number) {
    super('BATON_ERR_SHORT_SEND', `fd ${fd} took ${sent} of ${wanted} bytes`)
    this.sent = sent
    this.wanted = wanted
  }
}

/** EOF after `received` of `wanted` bytes. Descriptors that arrived with them are closed. */
export class UnexpectedEndError extends BatonNativeError {
  static {
    this.prototype.name = 'UnexpectedEndError'
  }
  declare readonly code: 'BATON_ERR_UNEXPECTED_END'
  readonly received: number
  readonly wanted: number

  constructor(fd: number, received: number, wanted: number) {
    super('BATON_ERR_UNEXPECTED_END', `fd ${fd} gave ${received} of ${wanted} bytes`)
    this.received = received
    this.wanted = wanted
  }
}

export interface NativeErrorContext {
  path?: string | undefined
  fd?: number | undefined
  address?: string | undefined
  pid?: number | undefined
}

/** A system call failed. `code` is the errno name (`EAGAIN`, never `EWOULDBLOCK`). */
export class NativeError extends Error {
  static {
    this.prototype.name = 'NativeError'
  }
  readonly code: string
  /** Positive, as in errno(3). */
  readonly errno: number
  /** The libc function, such as `sendmsg`. */
  readonly syscall: string
  /** The Unix socket to connect or bind, the file to lock, or the program to execute. */
  declare readonly path?: string
  /** The descriptor that the call was made on; -1 if there was none yet. */
  declare readonly fd?: number
  /** `host:port` or `[host]:port` of a TCP listener. */
  declare readonly address?: string
  /** The process that the call was about. */
  declare readonly pid?: number

  constructor(syscall: string, errno: number, context: NativeErrorContext = {}) {
    const code = errnoNames.get(errno) ?? `ERRNO_${errno}`
    const place = context.path ?? context.address
    const target = place === undefined ? '' : ` ${place}`
    const descriptor = context.fd === undefined || context.fd < 0 ? '' : ` (fd ${context.fd})`
    const subject = context.pid === undefined ? '' : ` (pid ${context.pid})`
    super(`${syscall}${target}${descriptor}${subject}: ${code}${describe(errno)}`)
    this.code = code
    this.errno = errno
    this.syscall = syscall
    if (context.path !== undefined) this.path = context.path
    if (context.fd !== undefined) this.fd = context.fd
    if (context.address !== undefined) this.address = context.address
    if (context.pid !== undefined) this.pid = context.pid
  }
}

function describe(errno: number): string {
  const entry = getSystemErrorMap().get(-errno)
  return entry === undefined ? ` (errno ${errno})` : ` (${entry[1]})`
}
