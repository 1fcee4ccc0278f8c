import { closeSync, fstatSync } from 'node:fs'
import { isatty } from 'node:tty'

const STANDARD = [0, 1, 2]

/**
 * Closes standard descriptors whose terminal has gone; call it last in an `exit` listener. On exit, Node restores the terminal settings of
 * open descriptors, and aborts (SIGABRT, with a core file) if tcsetattr(3) fails, as it does after a hang-up.
 */
export function leaveClosedTerminals(): void {
  for (const fd of STANDARD) {
    try {
      // After a hang-up, tcgetattr(3) fails with EIO, so isatty is false.
      if (fstatSync(fd).isCharacterDevice() && !isatty(fd)) closeSync(fd)
    } catch {
      // Already closed.
    }
  }
}
