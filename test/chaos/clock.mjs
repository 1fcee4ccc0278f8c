/** Microseconds of CLOCK_MONOTONIC, which all processes of a host share, so that their records can be compared. */
export function now() {
  return Number(process.hrtime.bigint() / 1000n)
}
