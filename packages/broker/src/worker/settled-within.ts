/**
 * Waits for `done`, for at most `milliseconds`.
 *
 * @returns whether it has settled in time; rejects as it does
 */
export async function settledWithin(done: Promise<unknown>, milliseconds: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), milliseconds)
  })
  const settled = await Promise.race([done.then(() => true), timeout])
  clearTimeout(timer)
  return settled
}
