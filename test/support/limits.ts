/**
 * What the start of a broker takes on this machine, in milliseconds. The runner measures it before the first test; a
 * file that is run without the runner takes a slow machine's.
 */
export const START = Number(process.env['TEST_START_MS'] ?? 3000)

/**
 * A limit is there to end what hangs, with the name of what it waited for. It is no part of what a test asserts, so it
 * is far over what the work takes, on a machine that is busy with other things as well.
 *
 * @param count how many starts of a broker the work is comparable to
 * @returns milliseconds
 */
export function starts(count: number): number {
  return Math.ceil(count * START * 10)
}

/** For a test. */
export const LIMIT = starts(20)

/** For one state that another process is to come to. */
export const SOON = starts(6)
