import { closeSync, fstatSync } from 'node:fs'
import { isatty } from 'node:tty'

const STANDARD = [0, 1, 2]

/**
 * For an `exit` listener, the last one that writes. Node restores the settings of a terminal when it ends, and aborts (SIGABRT, with a core
 * file) where tcsetattr(3) fails: on one that was closed meanwhile. A descriptor that is closed it leaves alone.
 */
export function leaveClosedTerminals(): void {
  for (const fd of STANDARD) {
    try {
      // To tcgetattr(3) a terminal that was hung up is none (EIO).
      if (fstatSync(fd).isCharacterDevice() && !isatty(fd)) closeSync(fd)
    } catch {
      // Closed already.
    }
  }
}
