import type { ReadStream, WriteStream } from 'node:tty'
import type { Display } from '../output/terminal.ts'

/** xterm's control sequences (ctlseqs), which every terminal of today obeys: alternate screen, cursor, wrapping at the margin. */
const ENTER = '\u001B[?1049h\u001B[?25l\u001B[?7l'
const LEAVE = '\u001B[?7h\u001B[?25h\u001B[?1049l'
const HOME = '\u001B[H'
const END_OF_LINE = '\u001B[K'
const END_OF_SCREEN = '\u001B[J'

/** Where a terminal does not know its size, as under `script` in a pipe. */
const USUAL = { columns: 80, rows: 24 }

export type Key = 'quit' | 'suspend' | 'redraw' | 'up' | 'down' | 'page-up' | 'page-down'

const KEYS: ReadonlyMap<string, Key> = new Map<string, Key>([
  ['q', 'quit'],
  ['Q', 'quit'],
  // Ctrl-C and Ctrl-D; while keys are read one by one the terminal sends no signals.
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

/** A whole escape sequence, or one character. */
const SEQUENCES = new RegExp(`${String.fromCharCode(27)}(?:\\[[0-9;]*[A-Za-z~]|O[A-Z])|.`, 'gsu')

/**
 * The alternate screen of a terminal. From `open` to `close` the keyboard is read key by key; whatever ends the process in
 * between, but SIGKILL, the terminal is given back as it was.
 */
export class Screen {
  readonly #output: WriteStream
  readonly #input: ReadStream | undefined
  readonly #onKey: (key: Key) => void
  #entered = false

  /** @param onKey is told of keys, of a new size (`redraw`), and of signals that end the process (`quit`) */
  constructor(display: Display, onKey: (key: Key) => void) {
    this.#output = display.output
    this.#input = display.keyboard()
    this.#onKey = onKey
  }

  get size(): { columns: number; rows: number } {
    const { columns, rows } = this.#output
    return columns > 0 && rows > 0 ? { columns, rows } : USUAL
  }

  open(): void {
    for (const signal of ENDING) process.on(signal, this.#quit)
    process.on('SIGCONT', this.#continue)
    // An uncaught error too comes to this, and its stack is printed afterwards, where it can be read.
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

  /** Harmless when repeated. */
  close(): void {
    this.#leave()
    for (const signal of ENDING) process.off(signal, this.#quit)
    process.off('SIGCONT', this.#continue)
    process.off('exit', this.#leave)
    this.#output.off('resize', this.#redraw)
    this.#input?.off('data', this.#read).off('error', this.#quit).off('end', this.#quit)
    this.#input?.pause()
  }

  /** Gives the terminal back and stops, with whoever waits for this process in the foreground (npx, say). */
  suspend(): void {
    this.#leave()
    process.kill(0, 'SIGTSTP')
    // Reached when it goes on, or at once: where no shell could continue it, the kernel does not stop it (setpgid(2)).
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

  /** Node writes to a terminal at once (see "A note on process I/O"), so this is done when the process ends. */
  readonly #leave = () => {
    if (!this.#entered) return
    this.#entered = false
    this.#output.write(LEAVE)
    this.#input?.setRawMode(false)
  }

  readonly #continue = () => {
    // A stop from outside has left the screen as it was, and the shell has changed the terminal since.
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
