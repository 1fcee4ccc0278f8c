import t from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { MAX_MS } from '../src/config/duration.ts'
import { fleetClock } from '../src/master/fleet/os.ts'
import { systemOs } from '../src/worker/os.ts'

// With a `minHealthy` within a minute of the longest duration, the time by which a new process had to show that it works was longer than Node can wait:
// the timer of its deploy fired after 1 ms, again and again, for as long as the deploy took. So did that of a scale, and of a replacement.
for (const [name, clock] of Object.entries({ fleetClock, systemOs }))
  void t.test(
    `a sum of two durations is not too long for a timer: ${name}`,
    { timeout: LIMIT },
    async (t) => {
      const warnings: Error[] = []
      const warned = (warning: Error) => warnings.push(warning)
      process.on('warning', warned)
      t.teardown(() => process.off('warning', warned))
      let times = 0
      const timer = clock.setTimeout(() => (times += 1), MAX_MS + 60_000)
      // One that is due later than a timer of 1 ms, on the same clock.
      await new Promise((resolve) => setTimeout(resolve, 20))
      clock.clear(timer)
      t.same([times, warnings], [0, []])
    },
  )
