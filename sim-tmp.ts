import { runSchedule } from '/tmp/h/mo/packages/broker/test/simulation/schedule.ts'
const from = Number(process.argv[2]), to = Number(process.argv[3]); const sab = process.argv[4] as any
const seen = new Map<string, number>(); let steps = 0, bad = 0; const kinds = new Map<string, number>()
const start = performance.now()
if (process.argv[5]) { const lines: string[] = []; const o = runSchedule(from, { log: (l) => lines.push(l), sabotage: sab || undefined }); console.log(lines.slice(-Number(process.argv[5])).join('\n')); console.log(o.violation?.stack) } else {
for (let s = from; s <= to; s++) { const o = runSchedule(s, { sabotage: sab || undefined }); steps += o.steps; for (const [k, v] of o.seen) seen.set(k, (seen.get(k) ?? 0) + v)
  if (o.violation) { bad++; const k = o.violation.message.replace(/\d+/g, 'N'); if (!kinds.has(k)) console.log('seed', s, o.violation.message); kinds.set(k, (kinds.get(k) ?? 0) + 1); if (sab) break; if (bad > 400) break } }
console.log(bad, 'bad', steps, 'steps', Math.round(performance.now() - start), 'ms', [...seen].map((e) => e.join(' ')).join(', ')); console.log([...kinds]) }
