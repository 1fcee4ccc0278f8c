// Runs `baton` once for each line on stdin, a JSON list of its arguments, all in this process: to see many of its failures for the price of
// one start. RUN names the module that runs a command. Says of each the exit code, and what it wrote to stderr.
import { createInterface } from 'node:readline'

const { run } = await import(process.env.RUN)

let number = 0
for await (const line of createInterface({ input: process.stdin })) {
  let said = ''
  const terminal = { out: (text) => console.log(text), err: (text) => (said += `${text}\n`) }
  const code = await run(JSON.parse(line), terminal)
  number += 1
  console.log(JSON.stringify({ msg: `ran ${number}`, code, said }))
}
