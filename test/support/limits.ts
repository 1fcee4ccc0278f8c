/**
 * The start-up time of a broker on this machine, in milliseconds. The runner measures it before the first test;
 * without the runner, that of a slow machine is assumed.
 */
export const START = Number(process.env['TEST_START_MS'] ?? 3000)

/** A machine may become slower after the measurement: three busy programs beside the tests make a start take this long. */
const LEAST_START = 1500

/**
 * A limit ends a test that hangs, and names what it was waiting for. It is never part of an assertion, so it
 * is far above the time the work takes, even on a busy machine.
 *
 * @param count the work's cost, in starts of a broker
 * @returns milliseconds
 */
export function starts(count: number): number {
  return Math.ceil(count * Math.max(START, LEAST_START) * 10)
}

/** For a whole test. */
export const LIMIT = starts(20)

/** For one state of another process. */
export const SOON = starts(6)
