import t from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { systemClock } from '../src/protocol/index.ts'

// Node takes a delay over 2^31 - 1 ms for one of 1 ms.
void t.test(
  'a timer that is longer than Node can wait does not fire at once',
  { timeout: LIMIT },
  async (t) => {
    const warnings: Error[] = []
    const warned = (warning: Error) => warnings.push(warning)
    process.on('warning', warned)
    t.teardown(() => process.off('warning', warned))
    const fired: number[] = []
    const timers = [2 ** 31, 2 ** 31 + 60_000, Number.POSITIVE_INFINITY].map((delay) =>
      systemClock.setTimeout(() => fired.push(delay), delay),
    )
    // One that is due later than a timer of 1 ms, on the same clock.
    await new Promise((resolve) => setTimeout(resolve, 20))
    for (const timer of timers) systemClock.clear(timer)
    t.same([fired, warnings], [[], []])
  },
)
