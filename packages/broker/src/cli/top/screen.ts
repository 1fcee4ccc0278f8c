import type { ReadStream, WriteStream } from 'node:tty'
import type { Display } from '../output/terminal.ts'

/** xterm control sequences (ctlseqs), which every current terminal supports: alternate screen, cursor, wrapping at the margin. */
const ENTER = '\u001B[?1049h\u001B[?25l\u001B[?7l'
const LEAVE = '\u001B[?7h\u001B[?25h\u001B[?1049l'
const HOME = '\u001B[H'
const END_OF_LINE = '\u001B[K'
const END_OF_SCREEN = '\u001B[J'

/** For a terminal that does not know its size, as under `script` in a pipe. */
const DEFAULT_SIZE = { columns: 80, rows: 24 }

export type Key = 'quit' | 'suspend' | 'redraw' | 'up' | 'down' | 'page-up' | 'page-down'

const KEYS: ReadonlyMap<string, Key> = new Map<string, Key>([
  ['q', 'quit'],
  ['Q', 'quit'],
  // Ctrl-C and Ctrl-D: in raw mode the terminal sends no signals.
  ['\u0003', 'quit'],
  ['\u0004', 'quit'],
  ['\u001A', 'suspend'],
  ['\u000C', 'redraw'],
  ['k', 'up'],
  ['\u001B[A', 'up'],
  ['\u001BOA', 'up'],
  ['j', 'down'],
  ['\u001B[B', 'down'],
  ['\u001BOB', 'down'],
  ['\u001B[5~', 'page-up'],
  ['\u001B[6~', 'page-down'],
  [' ', 'page-down'],
])

/** One escape sequence, or one character. */
const SEQUENCES = new RegExp(`${String.fromCharCode(27)}(?:\\[[0-9;]*[A-Za-z~]|O[A-Z])|.`, 'gsu')

/**
 * The alternate screen of a terminal. From `open` to `close` the keyboard is in raw mode. However the process ends in between, other
 * than by SIGKILL, the terminal is restored.
 */
export class Screen {
  readonly #output: WriteStream
  readonly #input: ReadStream | undefined
  readonly #onKey: (key: Key) => void
  #entered = false

  /** @param onKey receives keys, `redraw` after a change of size, and `quit` for signals that end the process */
  constructor(display: Display, onKey: (key: Key) => void) {
    this.#output = display.output
    this.#input = display.keyboard()
    this.#onKey = onKey
  }

  get size(): { columns: number; rows: number } {
    const { columns, rows } = this.#output
    return columns > 0 && rows > 0 ? { columns, rows } : DEFAULT_SIZE
  }

  open(): void {
    for (const signal of ENDING) process.on(signal, this.#quit)
    process.on('SIGCONT', this.#continue)
    // After an uncaught error too, before its stack is printed.
    process.on('exit', this.#leave)
    this.#output.on('resize', this.#redraw)
    this.#input?.on('data', this.#read).on('error', this.#quit).on('end', this.#quit)
    this.#enter()
  }

  draw(lines: readonly string[]): void {
    if (!this.#entered) return
    const text = lines.map((line) => `${line}${END_OF_LINE}`).join('\r\n')
    this.#output.write(`${HOME}${text}${END_OF_SCREEN}`)
  }

  /** Idempotent. */
  close(): void {
    this.#leave()
    for (const signal of ENDING) process.off(signal, this.#quit)
    process.off('SIGCONT', this.#continue)
    process.off('exit', this.#leave)
    this.#output.off('resize', this.#redraw)
    this.#input?.off('data', this.#read).off('error', this.#quit).off('end', this.#quit)
    this.#input?.pause()
  }

  /** Restores the terminal and stops the whole foreground process group, which may include npx. */
  suspend(): void {
    this.#leave()
    process.kill(0, 'SIGTSTP')
    // Reached when the process continues, or at once: the kernel does not stop it where no shell could continue it (setpgid(2)).
    setImmediate(() => {
      if (!this.#entered) this.#continue()
    })
  }

  readonly #enter = () => {
    if (this.#entered) return
    this.#entered = true
    this.#input?.setRawMode(true)
    this.#input?.resume()
    this.#output.write(ENTER)
  }

  /** Node writes to a terminal synchronously ("A note on process I/O"), so this also works at exit. */
  readonly #leave = () => {
    if (!this.#entered) return
    this.#entered = false
    this.#output.write(LEAVE)
    this.#input?.setRawMode(false)
  }

  readonly #continue = () => {
    // SIGSTOP did not restore the terminal, and the shell has changed its modes since.
    this.#entered = false
    this.#input?.setRawMode(false)
    this.#enter()
    this.#onKey('redraw')
  }

  readonly #quit = () => this.#onKey('quit')
  readonly #redraw = () => this.#onKey('redraw')

  readonly #read = (typed: Buffer | string) => {
    for (const [sequence] of String(typed).matchAll(SEQUENCES)) {
      const key = KEYS.get(sequence)
      if (key !== undefined) this.#onKey(key)
    }
  }
}

const ENDING = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
