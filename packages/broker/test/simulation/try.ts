import { runSchedule } from './schedule.ts'
const from = Number(process.argv[2] ?? 1),
  to = Number(process.argv[3] ?? from)
const start = performance.now()
let bad = 0
const seen = new Map<string, number>()
let steps = 0
for (let seed = from; seed <= to; seed++) {
  const { violation, seen: s, steps: n } = runSchedule(seed)
  steps += n
  for (const [k, v] of s) seen.set(k, (seen.get(k) ?? 0) + v)
  if (violation) {
    if (bad++ < 8) console.log(seed, violation.message)
  }
}
console.log(
  to - from + 1,
  'schedules',
  bad,
  'bad',
  steps,
  'steps',
  Math.round(performance.now() - start),
  'ms',
)
console.log(seen)
if (process.argv[4]) {
  const lines: string[] = []
  const { violation } = runSchedule(from, { log: (l) => void lines.push(l) })
  console.log(lines.slice(-Number(process.argv[4])).join('\n'))
  console.log(violation)
}
