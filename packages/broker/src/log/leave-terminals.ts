import { fstatSync, closeSync, statSync } from 'node:fs'

const STANDARD = [0, 1, 2]

/**
 * Closes standard descriptors whose terminal has gone; call it last in an `exit` listener. On exit, Node restores the terminal settings of
 * open descriptors, and aborts (SIGABRT, with a core file) if tcsetattr(3) fails, as it does after a hang-up.
 */
export function leaveClosedTerminals(): void {
  for (const fd of STANDARD) {
    try {
      if (maybeTerminal(fd) && !isTerminal(fd)) closeSync(fd)
    } catch {
      // Already closed.
    }
  }
}

/** A character device other than the null device. */
function maybeTerminal(fd: number): boolean {
  const file = fstatSync(fd)
  return file.isCharacterDevice() && file.rdev !== statSync('/dev/null').rdev
}

/** False after a hang-up, when tcgetattr(3) fails with EIO. Its module is loaded on demand, since it loads sockets and streams. */
function isTerminal(fd: number): boolean {
  return process.getBuiltinModule('node:tty').isatty(fd)
}
